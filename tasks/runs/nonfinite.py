"""Losses and gradients that are not finite, and classes that never appear.

A step whose loss or gradient is not finite stops the run, or is left out, as ``--nonfinite`` says:

- ``stop``: flags stay on the device and are read every few steps and before every checkpoint, so
  that a GPU is waited for no more than that, and no checkpoint is ever written after the first bad
  step. The message still names that step and its samples.
- ``skip``: decides in every step, before the optimiser's, which waits for the device once a step.
  The weights, the optimiser's state and the batch statistics stay as they were; the step counts.

Several processes judge together, so that all stop, or all skip, at the same step. With a gradient
scaler (``--trainer.precision 16-mixed``) gradients that overflow are its business: it leaves those
steps out and lowers its scale, so that the loss alone is judged.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed import ReduceOp

from cnsn.checkpoint import not_finite
from data.errors import listed

__all__ = ["NonFinite", "NonFiniteError", "WatchClasses", "WatchNumbers"]

NonFinite = Literal["stop", "skip"]
STEPS_BETWEEN_READS = 50  # on a GPU
SKIPPED_IN_A_ROW = 20  # steps; a run that skips more learns nothing any more
LISTED = 64  # samples that a message names
FINE = 2**62  # in place of the number of the first bad batch
WHAT = ("loss", "gradient")


class NonFiniteError(ValueError):
    """The training has diverged; the message says where and from what it can go on."""


class WatchNumbers(L.Callback):
    """See the module's docstring.

    Args:
        policy: "stop" or "skip".
        last: the run's checkpoint, which the message names.
        every: batches between two readings under "stop"; None takes 1 on a CPU, 50 on a GPU.

    Attributes:
        skipped: steps of the run that were left out.
    """

    def __init__(self, policy: NonFinite, last: Path, *, every: int | None = None) -> None:
        self.policy = policy
        self.last = last
        self._every = every
        self.skipped = 0
        self._in_a_row = 0
        self._saved: int | None = None  # step of the last checkpoint known to be good
        self._number = 0
        self._fresh = True  # the next batch begins an optimiser's step
        # Numbers and samples of the batches since the last reading; they stay on the device.
        self._recent: deque[tuple[int, dict[str, Tensor]]] = deque()
        self._buffers: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = pl_module.device
        if self._every is None:
            self._every = 1 if device.type == "cpu" else STEPS_BETWEEN_READS
        self._first = torch.full((len(WHAT),), FINE, dtype=torch.int64, device=device)
        if trainer.global_step:
            self._saved = trainer.global_step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._number = batch["number"]
        samples = {k: v for k, v in batch.items() if k.endswith("index") and torch.is_tensor(v)}
        self._recent.append((self._number, samples))
        if self._fresh and self.policy == "skip":
            self._buffers = [buffer.clone() for buffer in pl_module.buffers()]
        self._fresh = False

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        self._note(0, loss.detach().isfinite().all())

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._fresh = True
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                largest = nn.utils.get_total_norm(grads, float("inf"))
                self._note(1, largest.isfinite())
        if self.policy == "skip":
            self._skip_if_bad(trainer, pl_module, optimizer)

    def _note(self, kind: int, fine: Tensor) -> None:
        """Remember the batch's number, on the device, if it is the first bad one of its kind."""
        first = self._first[kind]
        self._first[kind] = torch.where(fine, first, first.clamp_max(self._number))

    def _read(self, trainer: L.Trainer) -> tuple[int, str] | None:
        """The first bad batch of all processes, and whether its loss or its gradient was bad."""
        if trainer.world_size > 1:
            torch.distributed.all_reduce(self._first, op=ReduceOp.MIN)
        found = self._first.tolist()  # waits for the device
        number = min(found)
        return None if number == FINE else (number, WHAT[found.index(number)])

    def _skip_if_bad(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        found = self._read(trainer)
        if found is None:
            self._in_a_row = 0
            self._recent.clear()
            return
        # An optimiser passes over parameters without a gradient, and keeps its state of them.
        optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(module.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        self._in_a_row += 1
        numbers = [number for number, _ in self._recent]
        place = self._place(trainer, numbers)
        if self._in_a_row > SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"Expected a finite loss and gradient, but {self._in_a_row} steps in a row had "
                f"none, the last at {place}: {self._remedy()}"
            )
        rank_zero_warn(f"Skipped a step: the {found[1]} is not finite at {place}.")
        self._first.fill_(FINE)
        self._recent.clear()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        assert self._every is not None
        if self.policy == "stop" and self._fresh and len(self._recent) >= self._every:
            self._stop_if_bad(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.policy == "stop":
            self._stop_if_bad(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not hasattr(self, "_first"):
            return
        if self.policy == "stop":
            self._stop_if_bad(trainer)
        # Finite gradients can make infinite weights.
        weights = {k: v for k, v in checkpoint["state_dict"].items() if v.is_floating_point()}
        if not nn.utils.get_total_norm(weights.values(), float("inf")).isfinite():
            raise NonFiniteError(
                f"Expected finite weights, but those of {not_finite(weights)} are not after step "
                f"{trainer.global_step}: {self._remedy()}"
            )
        self._saved = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _stop_if_bad(self, trainer: L.Trainer) -> None:
        found = self._read(trainer)
        if found is not None:
            number, what = found
            raise NonFiniteError(
                f"Expected a finite loss and gradient, but the {what} is not finite at "
                f"{self._place(trainer, [number])}: {self._remedy()}"
            )
        self._recent.clear()

    def _place(self, trainer: L.Trainer, numbers: list[int]) -> str:
        """Steps and samples of batches, of all processes."""
        own: dict[str, list[int]] = {}
        for number, samples in self._recent:
            if number in numbers:
                for name, index in samples.items():
                    own.setdefault(name, []).extend(index.flatten().tolist())
        parts = [own]
        if trainer.world_size > 1:
            parts = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, own)
        named = []
        for name in own:
            every = [i for part in parts for i in part.get(name, [])]
            kind = name.removesuffix("index").strip("_")
            named.append(f"{kind + ' ' if kind else ''}samples {listed(every, LISTED)}")
        first, last = numbers[0] + 1, numbers[-1] + 1
        steps = f"batch {first}" if first == last else f"batches {first} to {last}"
        return f"{steps} of the run" + (f" ({'; '.join(named)})" if named else "")

    def _remedy(self) -> str:
        good = (
            f"the last good checkpoint, of step {self._saved}, is {self.last}"
            if self._saved is not None and self.last.is_file()
            else "there is no checkpoint before it"
        )
        return (
            f"{good}. Look at those samples, lower the learning rate, or leave such steps out with "
            "`--nonfinite skip`."
        )


class WatchClasses(L.Callback):
    """Says after the first whole epoch which classes had no label in it."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None
        self._batches = 0
        self._done = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        classes = getattr(trainer.datamodule, "num_classes", None)  # type: ignore[attr-defined]
        if self._done or not classes:
            return
        # The last place takes what is no class, such as ignored pixels.
        self._seen = torch.zeros(classes + 1, dtype=torch.bool, device=pl_module.device)
        self._batches = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        label = batch.get("label")
        if self._seen is None or self._done or label is None:
            return
        self._batches += 1
        if label.is_floating_point():  # mixed labels: probabilities (B, classes)
            self._seen[:-1] |= (label > 0).any(0)
            return
        ignored = len(self._seen) - 1
        place = torch.where((label < 0) | (label > ignored), ignored, label).flatten().long()
        self._seen.scatter_(0, place, True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Of an epoch resumed in its middle, the first part was not seen.
        if self._seen is None or self._done or self._batches < trainer.num_training_batches:
            return
        self._done = True
        seen = self._seen[:-1].int()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(seen, op=ReduceOp.MAX)
        absent = (seen == 0).nonzero().flatten().tolist()
        if not absent:
            return
        names = getattr(trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        shown = [f"{i} ({names[i]})" if names else str(i) for i in absent]
        rank_zero_warn(
            f"{len(absent)} of {len(seen)} classes had no label in the first epoch of "
            f"{self._batches} batches, so that they are not learnt: {listed(shown, LISTED)}."
        )
