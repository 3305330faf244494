"""What a command starts from: the data that are given, a run's checkpoints, given weights."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from data.errors import DataNotFoundError
from tasks.engine.base import CNSNModule

__all__ = [
    "describe_given",
    "is_missing",
]


def describe_given(task: type[CNSNModule], config: dict[str, Any]) -> dict[str, Any] | None:
    """What the data module's `describe` says; None where the data are not there.

    Args:
        task: the module whose data they are.
        config: of one subcommand, complete.

    Raises:
        ValueError: the data are there and cannot be used.
    """
    data = copy.deepcopy(config["data"])
    data["init_args"]["seed"] = config["seed_everything"]
    if "verify" in data["init_args"]:
        data["init_args"]["verify"] = False  # It changes nothing in what they are.
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    try:
        made = parser.instantiate(parser.parse_object({"data": data})).data
        return task.describe_data(made, config["model"]["network"]["init_args"])
    except Exception as error:
        if is_missing(error):
            return None
        raise


def is_missing(error: BaseException | None) -> bool:
    """Whether missing data are what went wrong, also where a parser has wrapped their error."""
    while error is not None:
        if isinstance(error, DataNotFoundError):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False
