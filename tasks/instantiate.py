"""Module and data of a run's config.yaml, as the command line makes them, without training."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from tasks.base import CNSNModule
from tasks.run_directory import MODEL_FILES

__all__ = ["instantiate"]


def instantiate(task: type[CNSNModule], config: dict[str, Any]) -> tuple[Any, Any]:
    """The task's module and data module; the weights are fresh, as a checkpoint has them all."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(task, "model")
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    for source, target, when in task.LINKS:
        parser.link_arguments(source, target, apply_on=when)
    seed = config["seed_everything"]
    model = {k: None if k in MODEL_FILES else v for k, v in config["model"].items()}
    data = config["data"]
    data = {**data, "init_args": {**data["init_args"], "seed": seed}}
    made = parser.instantiate(parser.parse_object({"model": {**model, "seed": seed}, "data": data}))
    return made.model, made.data
