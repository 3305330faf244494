"""What a row of a table costs: the arithmetic of one seed's training, known before it runs.

    operations = epochs * samples of an epoch * passes * 3 * operations of one sample's forward

A backward pass counts as two forwards; tests are left out. Passes are forwards of a training step
for each sample: those of AugMix's views, of consistency's with their probability, and so on.
Operations are torch's own count (two for each multiplication with addition), on tensors without
memory, so that nothing is computed.
"""

from __future__ import annotations

import copy
import json
import pkgutil
from functools import cache
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from cnsn.nets.text_cnn import TextNetwork
from tasks.tables.spec import Row, Table

__all__ = ["amount", "operations_of"]

from tasks import ROOT

Config = dict[str, Any]
# Words of a text where the data cut them nowhere, and of a vocabulary: convolutions depend on the
# first alone.
WORDS, VOCABULARY = 400, 1000
UNITS = ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP"), (0, "FLOP"))
USUAL_SIZE = {"CIFAR": 32, "Digits": 16, "ImageNet": 224}


def operations_of(table: Table, row: Row) -> float | None:
    """Floating-point operations of one seed; None where the table does not say how many samples."""
    if row.untrained:
        return 0.0
    row = table.trained(row)
    config = copy.deepcopy(_merged((*table.configs, *row.configs)))
    for name, value in row.options.items():
        _set(config, name, value)
    data, model = config["data"].get("init_args", {}), config["model"]
    epochs = config["trainer"]["max_epochs"]
    samples = _samples(table, row, data)
    if samples is None:
        return None
    network = json.dumps(model["network"], sort_keys=True)
    forward = _forward(network, _size(config["data"]["class_path"], data))
    return epochs * samples * _passes(table, data, model) * 3 * forward


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


def _samples(table: Table, row: Row, data: Config) -> float | None:
    """Training samples of an epoch, each as often as it is read."""
    if "steps_per_epoch" in data:
        return data["steps_per_epoch"] * data["batch_size"]
    if isinstance(table.samples, dict):
        return table.samples[data["source"]]
    return table.samples


def _size(kind: str, data: Config) -> int:
    """Pixels of an image's side, or words of a text."""
    if "text" in kind:
        return data.get("max_length") or WORDS
    given = data.get("crop_size") or data.get("crop") or data.get("image_size")
    return given or USUAL_SIZE[kind.rpartition(".")[2]]


def _passes(table: Table, data: Config, model: Config) -> float:
    """Forwards of a training step for each sample of its batch, on the mean."""
    crossnorm = model.get("crossnorm", {})
    kind = model.get("cnsn", {}).get("kind", "none")
    p = crossnorm.get("p", 0.5) if kind in ("cn", "cnsn") else 0.0
    passes = 1 + (2 * p if crossnorm.get("consistency") else 0)
    if table.task == "fixmatch":
        return passes + 2 * data["unlabelled_ratio"]
    if table.task == "adaptation":
        return 2 if model.get("batch_norm") == "mixed" else 1 + p * (model.get("style") == "target")
    names = [step["class_path"].rpartition(".")[2] for step in data.get("augment", [])]
    if "AugMix" in names:
        passes += 2
    if model.get("adversarial"):
        passes += model["adversarial"]["steps"]
    return passes


@cache
def _forward(network: str, size: int) -> int:
    """Operations of one sample's forward."""
    options = json.loads(network)
    build = pkgutil.resolve_name(options["class_path"])
    arguments = options.get("init_args", {})
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        if issubclass(build, TextNetwork):
            net = build(vocabulary_size=VOCABULARY, **arguments)
            net.eval()(torch.zeros(1, size, dtype=torch.long), torch.full((1,), size))
        else:
            net = build(**arguments)
            net.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops()
