"""A progress bar that shows the loss whenever it is logged, and never waits for the device.

What is logged with ``prog_bar=True`` in a training step is read in every step, bar or no bar; a
device would be idle meanwhile. Here the bar shows what the run's own logger got, as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import _RICH_AVAILABLE
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from cnsn import SelfNorm, crossnorm_sites
from tasks.runs.dispensable import dispensable

__all__ = ["BothEnds", "Curves", "progress_bar"]


class Curves(CSVLogger):
    """The run's curves as a CSV file.

    Args:
        folder: that holds ``metrics/version_<n>/metrics.csv``: a new one at each start, so that
            resuming does not overwrite the curves before it.
        needed: whether it is an error where they cannot be written.

    Attributes:
        latest: the last value of everything logged.
    """

    def __init__(self, folder: Path, *, needed: bool = True) -> None:
        super().__init__(str(folder), name="metrics")
        self.latest: dict[str, float] = {}
        self.needed = needed
        self._lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """See the base class."""
        self.latest.update(metrics)
        super().log_metrics(dict(metrics), step)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The file's writer; one that does nothing where the file cannot be made."""
        made: Any = CSVLogger.experiment
        self._write(partial(made.fget, self))
        return self._experiment or DummyExperiment()

    @rank_zero_only
    def save(self) -> None:
        """See the base class."""
        self._write(super().save)

    def _write(self, write: Callable[[], Any]) -> None:
        if self._lost:
            return
        try:
            write()
        except OSError:
            if self.needed:
                raise
            self._lost = True
            with dispensable(self.log_dir):
                raise


class BothEnds(L.Callback):
    """Logs the losses of a run's first and last step too, wherever the logging interval falls.

    And says, once, what is trained.
    """

    def __init__(self, *, summary: bool = True) -> None:
        self.summary = summary

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.summary:
            net = pl_module.network
            count = sum(p.numel() for p in net.parameters())
            sites = len(crossnorm_sites(net))
            gates = sum(isinstance(m, SelfNorm) for m in net.modules())
            layers = f", {gates} SelfNorm and {sites} CrossNorm layers" if sites or gates else ""
            rank_zero_info(f"{type(net).__name__}: {count:,} parameters{layers}.")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop._batches_that_stepped == 0:
            self._log(trainer, pl_module, 0)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.interrupted and not trainer.should_stop:
            steps = trainer.fit_loop.epoch_loop._batches_that_stepped
            self._log(trainer, pl_module, steps - 1)

    @staticmethod
    def _log(trainer: L.Trainer, module: Any, step: int) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every == 0 or (step + 1) % every == 0 or not module.losses:
            return  # there already
        values = {name: value.item() for name, value in module.losses.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
            logger.save()


class _ShowsLoss(ProgressBar):
    """Mixin."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        for logger in trainer.loggers:
            if isinstance(logger, Curves) and "train/loss" in logger.latest:
                items["loss"] = logger.latest["train/loss"]
        return items


class _RichBar(_ShowsLoss, RichProgressBar):
    pass


class _TQDMBar(_ShowsLoss, TQDMProgressBar):
    pass


def progress_bar() -> ProgressBar:
    """The kind of bar that Lightning itself would take."""
    return _RichBar() if _RICH_AVAILABLE else _TQDMBar()
