"""Processes that prepare data for their parent, and end when it does.

Signals to a whole run, as Ctrl-C in a terminal, torchrun and SLURM send them, are for the training
process, not for its loaders' workers: it then saves its state after the step in progress, for
which it may still need batches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

__all__ = [
    "end_after",
    "outlive_signals",
    "worker_pool",
]


def worker_pool(
    workers: int,
    method: Literal["fork", "spawn", "forkserver"] | None = None,
    start: Callable[..., object] | None = None,
    *arguments: Any,
) -> ProcessPoolExecutor:
    """A pool of `workers` processes that do not outlive a parent that was killed.

    Those of the standard library would wait for its tasks for ever, with all that they hold.

    Args:
        workers: how many.
        method: of starting them; None takes Python's default.
        start: called with `arguments` in each of them first.
    """
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(start, arguments)
    )


def _start_worker(start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_after(parent.join)
    if start is not None:
        start(*arguments)


def end_after(wait: Callable[[], object], *, grace: float = 0.0, code: int = 1) -> None:
    """End this process once `wait` returns in a thread of its own, and `grace` seconds are over.

    Args:
        wait: for a parent that is gone, or has told this process to end.
        grace: for the main thread to end by itself.
        code: of the exit.
    """

    def watch() -> None:
        wait()
        time.sleep(grace)
        os._exit(code)

    threading.Thread(target=watch, daemon=True).start()


def outlive_signals(_: int = 0) -> None:
    """Let this worker end when its loader ends it, or with the process that started it.

    To be a loader's ``worker_init_fn``. SIGKILL ends a worker, as ever.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    # macOS does not tell who has sent a signal: there SIGTERM ends a worker.
    if parent is None or not hasattr(signal, "sigwaitinfo"):
        return
    # Threads that the worker starts later inherit this.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    teller = parent.pid

    def told() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != teller:
            pass

    end_after(told, code=0)  # As torch's workers do.
