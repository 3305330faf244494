"""What a row of a table costs: the arithmetic of one seed's training, known before it runs.

    operations = epochs * samples of an epoch * passes * 3 * operations of one sample's forward

A backward pass counts as two forwards; tests are left out. Passes are forwards of a training step
for each sample: those of consistency's views with their probability, and so on, as the task says.
Operations are torch's own count (two for each multiplication with addition), on tensors without
memory, so that nothing is computed.
"""

from __future__ import annotations

import copy
import inspect
import json
import pkgutil
from functools import cache
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from data.loading import ResumableDataModule
from tasks import ROOT, task_of
from tasks.tables.spec import Row, Table

__all__ = ["amount", "operations_of"]

Config = dict[str, Any]
UNITS = ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP"), (0, "FLOP"))
# Of what only the data know and a network must be told, such as a vocabulary's size, on which none
# of these operations depends.
UNKNOWN = 1000


def operations_of(table: Table, row: Row) -> float | None:
    """Floating-point operations of one seed; None where the table does not say how many samples.

    Nor the data how large they are.
    """
    if row.untrained:
        return 0.0
    row = table.trained(row)
    config = copy.deepcopy(_merged((*table.configs, *row.configs)))
    for name, value in row.options.items():
        _set(config, name, value)
    data, model = config["data"].get("init_args", {}), config["model"]
    epochs = config["trainer"]["max_epochs"]
    kind = pkgutil.resolve_name(config["data"]["class_path"])
    sized = kind if issubclass(kind, ResumableDataModule) else ResumableDataModule
    samples, size = _samples(table, data), data.get(sized.SIZED_BY) or sized.SIZE
    if samples is None or size is None:
        return None
    forward = _forward(table.task, json.dumps(model["network"], sort_keys=True), size)
    passes: float = task_of(table.task).forwards(data, model)
    return epochs * samples * passes * 3 * forward


def amount(operations: float | None, tflops: float) -> str:
    """Operations, and the hours that they take at a sustained speed of `tflops`."""
    if operations is None:
        return "unknown"
    if operations == 0:
        return "no training"
    power, unit = next((p, u) for p, u in UNITS if operations >= 10**p / 10)
    count = f"{_rounded(operations / 10**power)} {unit}"
    hours = operations / (tflops * 1e12) / 3600
    return f"{count}, {_rounded(hours)} h" if hours >= 0.1 else count


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


@cache
def _merged(files: tuple[str, ...]) -> Config:
    config: Config = {"trainer": {}}
    for file in files:
        _merge(config, yaml.safe_load((ROOT / file).read_text(encoding="utf-8")))
    return config


def _merge(config: Config, other: Config) -> None:
    for key, value in other.items():
        key = key.removesuffix("+")
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            _merge(config[key], value)
        else:
            config[key] = value


def _set(config: Config, name: str, value: Any) -> None:
    first, *rest = name.split(".")
    path = [first, "init_args", *rest] if first == "data" and rest[0] != "init_args" else None
    *folders, last = path or [first, *rest]
    for folder in folders:
        config = config.setdefault(folder, {})
    config[last] = value


def _samples(table: Table, data: Config) -> float | None:
    """Training samples of an epoch, each as often as it is read."""
    if "steps_per_epoch" in data:
        return data["steps_per_epoch"] * data["batch_size"]
    if isinstance(table.samples, dict):
        return table.samples[data["source"]]
    return table.samples


@cache
def _forward(task: str, network: str, size: int) -> int:
    """Operations of one sample's forward."""
    options, module = json.loads(network), task_of(task)
    build = pkgutil.resolve_name(options["class_path"])
    arguments = options.get("init_args", {})
    for _, target, _ in module.LINKS:
        name = target.removeprefix("model.network.init_args.")
        parameter = inspect.signature(build).parameters.get(name)
        if parameter is not None and parameter.default is parameter.empty:
            arguments.setdefault(name, UNKNOWN)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(**arguments).eval()(*module.example(size))
    return counter.get_total_flops()
