"""Readings with little of what workers need, to be run in a process of their own."""

from __future__ import annotations

import os
import resource
import tempfile
from typing import Any

import torch

from data.loading import TrainLoader, evaluation_loader
from tasks import text

__all__ = ["fit", "read"]


class Numbers:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        return {"a": torch.as_tensor(positions), "b": torch.zeros(len(positions), 3)}


def starve(files: int | None, raised: bool, folder: str | None) -> None:
    """Let this process open `files` more files, and others only if they are `raised` by it."""
    if folder is not None:
        os.environ["TMPDIR"] = folder
        tempfile.tempdir = None
    if files is not None:
        allowed = len(os.listdir("/proc/self/fd")) + files
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, 1024 if raised else allowed))


def read(kind: str, files: int | None, raised: bool, folder: str | None) -> None:
    """Print the samples that a loader with one worker gives, all batches kept, or its error."""
    starve(files, raised, folder)
    options: dict[str, Any] = {"batch_size": 2, "workers": 1}
    try:
        if kind == "training":
            batches = list(TrainLoader(Numbers(), seed=0, **options))
        else:
            batches = list(evaluation_loader(Numbers(), **options))
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print(sorted(i for batch in batches for i in batch["a"].tolist()))


def fit(arguments: list[str], files: int | None, folder: str | None) -> None:
    starve(files, False, folder)
    text.main(arguments)
