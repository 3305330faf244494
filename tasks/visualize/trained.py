"""Trained classifiers with their test images, and a site for the layers in each of their blocks.

CrossNorm has no parameters and is the identity in evaluation mode: it is put into a trained network
without changing it, and where it sits are the places to look at.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cnsn import CNSN
from cnsn.checkpoint import key_report, read_state_dict
from data.images import normalise
from tasks.engine.parser import instantiate
from tasks.tables.runner import Places, Run
from tasks.tables.spec import Table

__all__ = ["Trained", "load_all", "load_trained", "train_on_digits"]

from tasks import ROOT

STUDY = ROOT / "configs" / "studies" / "quickstart.yaml"
ROWS = ("baseline", "SN", "CNSN")


@dataclass
class Trained:
    """A trained classifier in evaluation mode.

    Attributes:
        name: of its method.
        module: the task's module.
        data: its data module, ready for the test.
        options: of that data module.
    """

    name: str
    module: Any
    data: Any
    options: dict[str, Any]

    @property
    def sites(self) -> dict[str, CNSN]:
        """The modules at the layers' sites by name, in the order of a forward."""
        found = self.module.network.named_modules()
        return {name: module for name, module in found if isinstance(module, CNSN)}

    def conditions(self, severity: int) -> dict[str, int]:
        """Numbers of the clean condition and of each corruption at `severity`, by name.

        Raises:
            ValueError: there is no corrupted condition of that severity.
        """
        found = {
            group.corruption: number
            for number, group in enumerate(self.data.groups)
            if group.severity in (0, severity)
        }
        if len(found) < 2:
            raise ValueError(
                f"Expected corrupted test images at severity {severity}, but the data of "
                f"{self.name} have none."
            )
        return found

    def images(self, condition: int, limit: int) -> Tensor:
        """The first uint8 (N, 3, H, W) of a condition: the same images in all of them."""
        parts: list[Tensor] = []
        for batch in self.data.condition_loader(condition):
            parts.append(batch["image"])
            if sum(map(len, parts)) >= limit:
                break
        return torch.cat(parts)[:limit]

    def inputs(self, images: Tensor) -> Tensor:
        """What the network gets of uint8 or float images from 0 to 255."""
        return normalise(images, self.data.mean, self.data.std)


def load_all(checkpoints: Sequence[Path]) -> list[Trained]:
    """The networks of several checkpoints; those of the same data share them.

    Raises:
        ValueError: see :func:`load_trained`.
    """
    networks: list[Trained] = []
    for path in checkpoints:
        networks.append(load_trained(path, networks))
    return networks


def load_trained(checkpoint: Path, others: Sequence[Trained] = ()) -> Trained:
    """The network of a run's checkpoint, with the data of one of `others` if these are its own.

    Raises:
        ValueError: it is in no run directory of the classification task, or of another network.
    """
    path = checkpoint.parent.parent / "config.yaml"
    if not checkpoint.is_file() or not path.is_file():
        raise ValueError(
            f"Expected {checkpoint} to be a checkpoint in a run directory, as "
            "RUN/checkpoints/last.ckpt beside RUN/config.yaml, but there is none: run "
            "`python -m tasks.classification fit` first."
        )
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "crossnorm" not in config["model"] or "augmix" not in config["model"]:
        raise ValueError(
            f"Expected {checkpoint} to be a run of `python -m tasks.classification`, but {path} "
            "describes another task."
        )
    layers = config["model"]["cnsn"]
    kind = "cnsn" if layers["kind"] in ("sn", "cnsn") else "cn"
    everywhere = {**layers, "kind": kind, "image": False, "cn_position": None}
    config = {**config, "model": {**config["model"], "cnsn": everywhere}}
    module, data = instantiate(importlib.import_module("tasks.classification").TASK, config)
    state = read_state_dict(checkpoint)
    if report := key_report(module, state):
        raise ValueError(f"Expected {checkpoint} to hold its network's weights, but {report}.")
    module.load_state_dict(state, strict=True)
    module.eval()
    # Corrupted images take longer to make than anything here to draw.
    same = next((other.data for other in others if other.options == config["data"]), None)
    if same is None:
        data.prepare_data()
        data.setup("test")
    name = str(config["name"]).rpartition("/")[2].replace("_", " ")
    return Trained(name, module, same or data, config["data"])


def train_on_digits(runs: Path, rows: Sequence[str] = ROWS) -> list[Path]:
    """Checkpoints of the quickstart's rows with seed 0; those that are not there are trained.

    Raises:
        ValueError: a training failed.
    """
    table = Table.load(STUDY)
    checkpoints = []
    for name in rows:
        row = next(row for row in table.rows if row.name == name)
        run = Run(table=table, row=row, seed=0, places=Places(runs=runs))
        if not (run.directory / "finished.json").is_file():
            print(f"Training {run.title} on bundled digits, about half a minute.", flush=True)
            command = [*run.commands()[0], "--trainer.enable_progress_bar=false"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                last = done.stderr.strip().rpartition("\n")[2]
                raise ValueError(f"Expected {run.title} to be trained, but it failed: {last}")
        checkpoints.append(run.directory / "checkpoints" / "last.ckpt")
    return checkpoints
