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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

__all__ = [
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


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
    threading.Thread(target=_end_when_told_by, args=(parent.pid,), daemon=True).start()


def _end_when_told_by(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)  # As torch's workers do.
