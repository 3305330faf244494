"""Ends a training at a planned place, in a planned way."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import tasks.runs.checkpoints as checkpoint_io
from data.loading import NumberedLoader

Place = Literal["step", "loader", "writing", "synchronising", "keeping", "saved", "validation"]
Deed = Literal[
    "SIGINT", "SIGTERM", "SIGKILL", "SIGUSR1", "SIGHUP", "SIGSTOP", "raise", "full", "twice"
]


class Planned(RuntimeError):
    """The error that a fault raises."""


@dataclass(frozen=True)
class Fault:
    """What happens where.

    Args:
        at: "step" in the training step of batch `number`; "loader" where that batch is read, in
            the worker that reads it; "writing", "synchronising" and "keeping" while ``last`` of
            step `number` is written, brought to the disk and moved; "saved" right after that;
            "validation" in batch `number` of an evaluation.
        number: counted over the whole run.
        do: a signal to this process, an error, a full disk, or two signals.
    """

    at: Place
    number: int
    do: Deed

    def act(self) -> None:
        if self.do == "raise":
            raise Planned(f"planned at {self.at} {self.number}")
        if self.do == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.do == "twice":
            os.kill(os.getpid(), signal.SIGINT)
        number = "SIGINT" if self.do == "twice" else self.do
        os.kill(os.getpid(), getattr(signal, number))

    def plan(self, module_class: type[Any], patch: Any) -> None:
        """Put it in place by `patch`, which sets attributes as pytest's monkeypatch does."""
        if self.at == "step":
            self._in_step(module_class, patch)
        elif self.at == "loader":
            self._in_loader(patch)
        elif self.at == "validation":
            self._in_validation(module_class, patch)
        else:
            self._in_saving(patch)

    def _in_step(self, module_class: type[Any], patch: Any) -> None:
        original = module_class.training_step

        def training_step(module: Any, batch: dict[str, Any], batch_idx: int) -> Any:
            loss = original(module, batch, batch_idx)
            if batch["number"] == self.number:
                self.act()
            return loss

        patch.setattr(module_class, "training_step", training_step)

    def _in_loader(self, patch: Any) -> None:
        original, fault = NumberedLoader.__init__, self

        class Schedule(torch.utils.data.Dataset[Any]):
            def __init__(self, inner: Any) -> None:
                self.inner = inner
                self.per_epoch, self.samples = inner.per_epoch, inner.samples

            def __getitem__(self, number: int) -> Any:
                if number == fault.number:
                    fault.act()
                return self.inner[number]

        def __init__(loader: Any, schedule: Any, **options: Any) -> None:
            original(loader, Schedule(schedule), **options)

        patch.setattr(NumberedLoader, "__init__", __init__)

    def _in_validation(self, module_class: type[Any], patch: Any) -> None:
        original, seen = module_class.validation_step, [0]

        def validation_step(module: Any, batch: Any, batch_idx: int) -> Any:
            result = original(module, batch, batch_idx)
            if seen[0] == self.number:
                self.act()
            seen[0] += 1
            return result

        patch.setattr(module_class, "validation_step", validation_step)

    def _in_saving(self, patch: Any) -> None:
        original, active = checkpoint_io.write_checkpoint, [False]
        names = {"synchronising": "finish", "writing": "_put"}

        def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
            active[0] = checkpoint["global_step"] == self.number and path.name == "last.ckpt"
            original(checkpoint, path)
            if active[0] and self.at == "saved":
                self.act()
            active[0] = False

        patch.setattr(checkpoint_io, "write_checkpoint", write_checkpoint)
        owner: Any = checkpoint_io._Writer if self.at in names else checkpoint_io
        name = names.get(self.at, "_keep")
        if self.at == "saved":
            return
        inner = getattr(owner, name)

        def faulty(*arguments: Any) -> Any:
            large = self.at != "writing" or len(arguments[1]) > 64
            result = inner(*arguments)
            if active[0] and large:
                active[0] = False
                self.act()
            return result

        patch.setattr(owner, name, faulty)


class Patches:
    """Sets attributes for good, in a process that ends soon."""

    @staticmethod
    def setattr(owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)
