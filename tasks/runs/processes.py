"""Several processes that work together: when one dies or is stopped, the others say so and end."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from data.processes import end_after

__all__ = ["WatchingLauncher", "end_with_parent", "lost_process", "watch_processes"]

PARENT = "CNSN_PARENT_PROCESS"
# Seconds between two looks, that the main thread has to notice a death by itself, and that the
# other processes have to end after an error in this one.
PERIOD = 1.0
GRACE = 15.0
PATIENCE = 5.0
# Seconds that a process which was told to end may spend in one instruction; also while one saves.
STUCK = 40.0
SAVING = 600.0
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


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
    """Replace Lightning's launcher of scripts, where the strategy has one; answer signals.

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
    main = threading.current_thread() is threading.main_thread()
    if trainer.num_devices * trainer.num_nodes > 1 and main:
        _end_when_told(trainer, outlook)


def _end_when_told(trainer: L.Trainer, outlook: Callable[[], str]) -> None:
    """Answer a signal also while this process waits for another one, which is stopped.

    Python hears a signal between two instructions of its own, and a collective is one of them.
    """
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    alive = threading.Event()
    # A signal that nobody sends: to raise it shows whether the main thread does anything.
    signal.signal(signal.SIGURG, lambda *_: alive.set())

    def watch() -> None:
        while (number := os.read(told, 1)[0]) not in STOPS:
            pass
        while _is_alive(alive):
            time.sleep(PERIOD)
        print(
            f"error: Told to end by {signal.Signals(number).name}, but another process of this "
            f"run does not answer: it may be stopped. {outlook()}",
            file=sys.stderr,
            flush=True,
        )
        if isinstance(launcher := trainer.strategy.launcher, WatchingLauncher):
            launcher.end()
        os._exit(128 + number)

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(alive: threading.Event) -> bool:
    """Whether the main thread comes to its next instruction in time."""
    alive.clear()
    _thread.interrupt_main(signal.SIGURG)
    asked = time.monotonic()
    while not alive.wait(PERIOD):
        if time.monotonic() - asked > (SAVING if _saves() else STUCK):
            return False
    return True


def _saves() -> bool:
    """Whether the main thread writes a checkpoint, or waits for the one that does."""
    main = threading.main_thread().ident
    assert main is not None
    frame = sys._current_frames().get(main)
    while frame is not None and frame.f_code.co_name != "save_checkpoint":
        frame = frame.f_back
    return frame is not None


def end_with_parent() -> None:
    """A process that another one started ends with it, also where that one was killed."""
    parent = os.environ.get(PARENT)
    if parent is None or int(parent) == os.getpid():
        return

    def orphaned() -> None:
        while os.getppid() == int(parent):
            time.sleep(PERIOD)

    end_after(orphaned, grace=GRACE)  # The main thread usually ends by itself, with a message.


def lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the training has gone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if isinstance(error, torch.distributed.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    gloo = "gloo" in str(error) and isinstance(error, RuntimeError)
    return gloo and any(word in str(error) for word in words)
