"""The trainer of a command line: its loggers, its plugins, and the callbacks that every run has."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer

from tasks.engine.progress import BothEnds, Curves, progress_bar
from tasks.engine.speed import SpeedMonitor
from tasks.engine.start import Start
from tasks.runs.checkpoints import DurableCheckpointIO
from tasks.runs.interruption import SaveOnInterruption, SwapBack
from tasks.runs.nonfinite import WatchClasses, WatchNumbers
from tasks.runs.resume import ExactResume, RecipeInCheckpoint, StepCheckpoint
from tasks.runs.same_run import RunCheckpoint, SameRun, place_users_checkpoints
from tasks.runs.trained_in import TrainedIn

__all__ = ["Watches", "as_list"]


class Watches:
    """Completes the trainer's options, and keeps the callbacks that a result tells of.

    Attributes:
        timer: of the training.
        speed: of training and test.
        trained_in: the environments that the weights were trained in.
        numbers: steps left out as they were not finite; None where nothing is trained.
    """

    def __init__(self) -> None:
        self.timer = Timer(verbose=False)
        self.speed = SpeedMonitor()
        self.trained_in = TrainedIn()
        self.numbers: WatchNumbers | None = None

    def complete(self, options: dict[str, Any], start: Start) -> list[L.Callback]:
        """Fill in loggers, plugins and the user's callbacks in a trainer's `options`.

        Returns:
            The callbacks that a run has beside the user's.
        """
        fits = start.fits
        loggers = options.get("logger")
        if loggers is None or loggers is True:
            loggers = []
        if loggers is not False:
            csv = Curves(start.directory.path, needed=fits)
            options["logger"] = [csv, *as_list(loggers)]
        if not fits:
            options["enable_checkpointing"] = False
        given = as_list(options.get("callbacks"))
        kept = start.directory.checkpoints / "kept" if fits else None
        options["callbacks"] = place_users_checkpoints(given, kept)
        plugins = [*as_list(options.get("plugins")), DurableCheckpointIO()]
        options["plugins"] = plugins
        callbacks = self._callbacks(start)
        if start.config.speed:
            callbacks.insert(0, self.speed)
        if fits:
            callbacks.append(BothEnds(summary=options.get("enable_model_summary") is not False))
        options["enable_model_summary"] = False
        own = [c for c in given if isinstance(c, ProgressBar)]
        if options.get("enable_progress_bar") is not False and not own:
            callbacks.append(progress_bar())
        return callbacks

    def _callbacks(self, start: Start) -> list[L.Callback]:
        told: list[L.Callback] = [RecipeInCheckpoint(start.recipe), self.trained_in]
        if not start.fits:
            return [*told, *start.checks]
        folder = str(start.directory.checkpoints)
        options: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
        callbacks: list[L.Callback] = []
        if start.module.MONITOR is not None:
            monitor, mode = start.module.MONITOR
            best = RunCheckpoint(filename="best", monitor=monitor, mode=mode, **options)
            callbacks.append(best)
        # Behind `best`, whose score it must know.
        last = RunCheckpoint(filename="last", save_on_train_epoch_end=True, **options)
        callbacks.append(last)
        every = start.config.save_every
        if every:
            callbacks.append(StepCheckpoint(filename="last", every_n_train_steps=every, **options))
        policy = start.config.nonfinite
        self.numbers = WatchNumbers(policy, start.directory.last)
        stop = SaveOnInterruption(start.directory.last)
        same = SameRun(start.directory.checkpoints)
        watches = [ExactResume(), self.numbers, WatchClasses(), stop, SwapBack()]
        return [*callbacks, *told, same, self.timer, *watches]


def as_list(value: Any) -> list[Any]:
    """What a trainer takes alone, or several of, as a list."""
    if value is None or isinstance(value, bool):
        return []
    return value if isinstance(value, list) else [value]
