"""Ctrl-C, SIGTERM, a closed terminal and SLURM's warning end a run after the step in progress.

Its state is saved then.

Lightning ends at once on Ctrl-C, perhaps in the middle of an optimiser's step, and keeps nothing
of the epoch; on SIGTERM its processes talk to each other from within the signal's handler. Here a
handler only remembers, and after the step all processes agree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.utils._pytree import tree_map

from tasks.runs.callback_kinds import may_swap_weights
from tasks.runs.processes import lost_process
from tasks.runs.resume import may_save, validation_follows
from tasks.runs.same_run import users_checkpoints

__all__ = ["Requeued", "SaveOnInterruption", "SwapBack", "ended_in_words"]


class Requeued(SIGTERMException):
    """SLURM has announced the end of the job's time, and has been asked to start it again."""


class HungUp(SIGTERMException):
    """The terminal has closed."""


class SwapBack(L.Callback):
    """Puts exchanged weights back where an error ends a validation, before others save on it."""

    _swapped = False

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swapped = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swapped = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        for callback in trainer.callbacks if self._swapped else ():  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback._swap_models(pl_module)
        self._swapped = False


class SaveOnInterruption(L.Callback):
    """Saves `path` once a signal has come and the step is done, then lets the run end.

    With several processes one signal to one of them is enough. During validation the state from
    before it is saved, and the same command validates again. A second Ctrl-C ends at once.

    Args:
        path: of the checkpoint from which the same command resumes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: signal.Signals | None = None
        self._steps = self._start = 0
        self._before_validation: dict[str, Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps = self._start = trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return

        def remember(number: int, frame: FrameType | None) -> None:
            if self.asked is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            if self.asked is None and trainer.is_global_zero:
                with suppress(OSError):  # A full disk's, say; see also tasks/runs/output.py.
                    print(
                        "\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr
                    )
            self.asked = signal.Signals(number)

        watched = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            watched.append(signal.SIGHUP)
        if "SLURM_JOB_ID" in os.environ:
            watched.append(signal.SIGUSR1)
        for number in watched:
            self._handlers.setdefault(number, signal.getsignal(number))
            signal.signal(number, remember)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *batch: Any
    ) -> None:
        resumable = may_save(trainer, self._steps)
        self._steps = trainer.global_step
        if not resumable:
            return
        agreed = self._agreed(trainer)
        if agreed or validation_follows(trainer):
            for callback in users_checkpoints(trainer):  # Their turn would come too late.
                callback.on_train_batch_end(trainer, pl_module, *batch)
        if agreed:
            # Lightning would log the step's figures after this.
            trainer._logger_connector.update_train_step_metrics()
            trainer.save_checkpoint(self.path)
            self._end(trainer)
        if validation_follows(trainer):
            self._before_validation = _state(trainer, pl_module)

    def _agreed(self, trainer: L.Trainer) -> bool:
        """Whether any process was asked to stop; all of them must be at the same step."""
        if trainer.world_size == 1:
            return self.asked is not None
        number = torch.tensor(int(self.asked or 0), device=trainer.strategy.root_device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        self.asked = signal.Signals(int(number)) if number else None
        return self.asked is not None

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        # Processes have different numbers of batches here, so that the first one decides.
        if self.asked is None or not trainer.is_global_zero:
            return
        if self._before_validation is not None:
            trainer.strategy.save_checkpoint(self._before_validation, self.path)
        elif trainer.global_step != self._start or not self.path.is_file():
            return  # Otherwise nothing was trained since the run resumed from that file.
        self._end(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The end of the epoch before was saved as such.
        if self._agreed(trainer) and self.path.is_file():
            self._end(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before_validation = None

    def on_train_batch_start(self, *_: Any) -> None:
        self._before_validation = None

    def _end(self, trainer: L.Trainer) -> None:
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked == signal.SIGUSR1:
            if trainer.is_global_zero:
                _requeue()
            raise Requeued
        raise HungUp if self.asked == signal.SIGHUP else SIGTERMException

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, *_: Any) -> None:
        self._before_validation = None
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


@contextmanager
def ended_in_words(outlook: Callable[[], str]) -> Iterator[None]:
    """Say how a run was stopped, and exit with the shell's code of that signal.

    Args:
        outlook: says what the same command does then, in a sentence.
    """

    def stopped(how: str, code: int) -> NoReturn:
        print(f"{how}. {outlook()}", file=sys.stderr)
        sys.exit(code)

    try:
        yield
    except Requeued:
        stopped("Out of time", 128 + signal.SIGUSR1)
    except HungUp:
        stopped("The terminal has closed", 128 + signal.SIGHUP)
    except SIGTERMException:
        stopped("Terminated", 128 + signal.SIGTERM)
    except RuntimeError as error:
        if not lost_process(error):
            raise
        stopped("error: Another process of this training has ended", 1)
    except KeyboardInterrupt:
        stopped("Interrupted", 128 + signal.SIGINT)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way to end on Ctrl-C
            stopped("Interrupted", 128 + signal.SIGINT)
        raise


def _state(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Any]:
    """What a checkpoint would hold now.

    Weights are shared, since validation leaves them as they are, but where a callback may exchange
    them for their average meanwhile. Batch statistics are copied: an evaluation may estimate them
    anew.
    """
    state = trainer._checkpoint_connector.dump_checkpoint()
    if any(map(may_swap_weights, trainer.callbacks)):  # type: ignore[attr-defined]
        optimizers = "optimizer_states"
        return {k: v if k == optimizers else tree_map(_copied, v) for k, v in state.items()}
    buffers = {name for name, _ in module.named_buffers()}
    weights = state["state_dict"]
    state["state_dict"] = {k: v.clone() if k in buffers else v for k, v in weights.items()}
    return state


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _requeue() -> None:
    """Ask SLURM to start the job again; the same command then resumes."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], timeout=60, check=False).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        rank_zero_info(f"The job could not be requeued ({error}): submit it again to resume.")
        return
    said = "is requeued" if done == 0 else f"could not be requeued (scontrol ended with {done})"
    rank_zero_info(f"Job {job} {said}.")
