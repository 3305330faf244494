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
from lightning.pytorch.utilities import rank_zero_only

from tasks.runs.dispensable import dispensable

__all__ = ["Curves", "progress_bar"]


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


class _ShowsLoss(ProgressBar):
    """Mixin."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
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
