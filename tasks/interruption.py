"""Ctrl-C and SIGTERM end a run after the step in progress, with its state saved.

Lightning ends at once on Ctrl-C, perhaps in the middle of an optimiser's step, and keeps nothing
of the epoch. Schedulers of clusters send SIGTERM shortly before they kill a job.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

__all__ = ["SaveOnInterruption"]


class SaveOnInterruption(L.Callback):
    """Saves `path` once a signal has come and the step is done, then lets the run end.

    A second Ctrl-C ends at once, without saving; so does one during validation. Several processes
    need not be at the same step, so they end as Lightning ends them, without saving.

    Args:
        path: of the checkpoint from which the same command resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked = False
        self._steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps = trainer.global_step
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return

        def remember(number: int, frame: FrameType | None) -> None:
            if self.asked or trainer.validating:
                raise KeyboardInterrupt
            self.asked = True
            print("\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr)

        signal.signal(signal.SIGINT, remember)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # While gradients accumulate there is no state that a checkpoint could hold.
        stepped = trainer.global_step != self._steps
        self._steps = trainer.global_step
        if stepped and trainer.world_size == 1 and (self.asked or trainer.received_sigterm):
            trainer.save_checkpoint(self.path)
            if self.asked:
                raise KeyboardInterrupt  # Lightning itself ends after a SIGTERM.

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
