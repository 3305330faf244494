"""How fast a run is: throughput, step time, share of waiting for data, and peak memory.

Logged as ``speed/<name>`` once every `log_every_n_steps` steps, over the steps since the last time.
Times are of the host's clock between the ends of steps; nothing waits for the device. A GPU works
behind the host, but not ever further: Lightning reads the losses whenever it logs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

__all__ = ["SpeedMonitor", "in_words", "peak_memory"]


def peak_memory(device: torch.device) -> float:
    """GiB: on a GPU the most that its tensors took, elsewhere the most that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return float("nan")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


@dataclass
class _Tally:
    """Sums over some steps.

    Attributes:
        batches: how many.
        units: images, texts or so in them, of all processes.
        seconds: that they took.
        waited: seconds of these in which the loader was waited for.
    """

    batches: int = 0
    units: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, units: int, seconds: float, waited: float) -> None:
        self.batches += 1
        self.units += units
        self.seconds += seconds
        self.waited += waited


class SpeedMonitor(L.Callback):
    """Logs the speed of training, and keeps that of the whole training and of a test.

    Only training steps count: no validation, no checkpoint at the end of an epoch. A step is that
    of the optimiser. Of the test all counts from its first batch to its last; waiting is there what
    passes between batches, so copies to the device, and normalisation on a CPU, are in it.

    Args:
        clock: seconds.

    Attributes:
        trained: of the training steps since this start of the run, but for the first, which
            allocates and compiles; None before the second.
        tested: of the test; None before its end.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.trained: dict[str, float] | None = None
        self.tested: dict[str, float] | None = None
        self._recent, self._total = _Tally(), _Tally()
        self._first = True
        self._mark, self._waited, self._between = 0.0, 0.0, 0.0

    # Training.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set_mark(trainer)  # A run resumed within an epoch does not start one.

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set_mark(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set_mark(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        before, waited = self._mark, self._waited
        self._set_mark(trainer)
        step = (
            self._units(trainer, pl_module, batch),
            self._mark - before,
            self._waited - waited,
        )
        self._recent.add(*step)
        if not self._first:
            self._total.add(*step)
        self._first = False
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._recent.batches == every:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._recent.batches:
            self._log(trainer, pl_module)
        if self._total.batches:
            self.trained = self._figures(trainer, pl_module, self._total)

    def _set_mark(self, trainer: L.Trainer) -> None:
        loader = getattr(_data(trainer), "train_loader", None)
        self._mark, self._waited = self.clock(), getattr(loader, "waited", 0.0)

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = self._figures(trainer, pl_module, self._recent)
        self._recent = _Tally()
        # Past `self.log`, which would copy each number to the device.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            logger.log_metrics({f"speed/{name}": v for name, v in figures.items()}, step=step)

    # Test.

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._total, self._mark, self._between = _Tally(), self.clock(), 0.0

    def on_test_batch_start(self, *_: Any) -> None:
        self._between += self.clock() - self._mark

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        before, self._mark = self._mark, self.clock()
        self._total.add(self._units(trainer, pl_module, batch), self._mark - before, self._between)
        self._between = 0.0

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._total.seconds += self.clock() - self._mark
        if self._total.batches:
            figures = self._figures(trainer, pl_module, self._total)
            del figures["step_seconds"]
            self.tested = figures

    # Both.

    @staticmethod
    def _units(trainer: L.Trainer, module: Any, batch: Any) -> int:
        return module.units(batch) * trainer.world_size

    @staticmethod
    def _figures(trainer: L.Trainer, module: Any, tally: _Tally) -> dict[str, float]:
        seconds = max(tally.seconds, 1e-9)
        steps = tally.batches / trainer.accumulate_grad_batches
        return {
            f"{module.UNIT}_per_second": tally.units / seconds,
            "step_seconds": seconds / steps,
            "data_wait": tally.waited / seconds,
            "peak_memory_gib": peak_memory(module.device),
        }


def _data(trainer: L.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def in_words(figures: dict[str, float]) -> str:
    """The figures of a training or a test as a phrase."""
    (rate,) = (name for name in figures if name.endswith("_per_second"))
    unit = rate.removesuffix("_per_second")
    step = f", {1000 * figures['step_seconds']:,.0f} ms a step" if "step_seconds" in figures else ""
    waiting, memory = 100 * figures["data_wait"], figures["peak_memory_gib"]
    return (
        f"{figures[rate]:,.0f} {unit} a second{step}; {waiting:.1f} % of the time waiting for "
        f"data, at most {memory:.1f} GiB"
    )
