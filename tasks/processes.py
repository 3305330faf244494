"""Several processes on one machine: when one dies, the others say so and end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

__all__ = ["WatchingLauncher", "end_with_parent", "lost_process", "watch_processes"]

PARENT = "CNSN_PARENT_PROCESS"
# Seconds between two looks, that the main thread has to notice a death by itself, and that the
# other processes have to end after an error in this one.
PERIOD = 1.0
GRACE = 15.0
PATIENCE = 5.0


class WatchingLauncher(_SubprocessScriptLauncher):
    """Starts the processes as Lightning does, and watches them.

    Lightning's own watch kills this process without a word.

    Attributes:
        outlook: says what the same command does after an early end, in a sentence.
    """

    outlook: Callable[[], str]
    _ending = False

    def launch(
        self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any
    ) -> Any:
        if self.cluster_environment.creates_processes_externally:
            return function(*args, **kwargs)
        os.environ[PARENT] = str(os.getpid())
        self._call_children_scripts()
        del os.environ[PARENT]
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self._ending = True
            # Its connections are closed a moment before it is seen to have ended.
            if lost_process(error) and (dead := self._dead(PATIENCE)) is not None:
                self._say(*dead)
            self.end(PATIENCE)
            raise

    def _watch(self) -> None:
        while self._dead() is None:
            if all(process.poll() == 0 for process in self.procs):
                return
            time.sleep(PERIOD)
        # Usually the others notice within a moment, and end by themselves; some wait forever.
        time.sleep(GRACE)
        dead = self._dead()
        if self._ending or dead is None:
            return
        self._say(*dead)
        print(self.outlook(), file=sys.stderr, flush=True)
        self.end()
        os._exit(1)

    def _dead(self, patience: float = 0.0) -> tuple[int, int] | None:
        """Rank and exit code of a process that has failed, or does within `patience` seconds."""
        until = time.monotonic() + patience
        while True:
            for rank, process in enumerate(self.procs, start=1):
                if process.poll():
                    return rank, int(process.returncode)
            if time.monotonic() >= until:
                return None
            time.sleep(0.05)

    def _say(self, rank: int, code: int) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        print(f"error: process {rank} of {self.num_processes} has ended ({how}).", file=sys.stderr)

    def end(self, patience: float = 0.0) -> None:
        """Kill the processes that have not ended after `patience` seconds."""
        until = time.monotonic() + patience
        for process in self.procs:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def watch_processes(trainer: L.Trainer, outlook: Callable[[], str]) -> None:
    """Replace Lightning's launcher of scripts, where the strategy has one.

    Args:
        trainer: not started yet.
        outlook: see :class:`WatchingLauncher`.
    """
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        watching = WatchingLauncher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )
        watching.outlook = outlook
        trainer.strategy._launcher = watching


def end_with_parent() -> None:
    """A process that another one started ends with it, also where that one was killed."""
    parent = os.environ.get(PARENT)
    if parent is None or int(parent) == os.getpid():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(PERIOD)
        time.sleep(GRACE)  # The main thread usually ends by itself, with a message.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the training has gone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    gloo = "gloo" in str(error) and isinstance(error, RuntimeError)
    return gloo and any(word in str(error) for word in words)
