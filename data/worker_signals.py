"""Signals to a whole run are for the training process, not for its loaders' workers.

Ctrl-C in a terminal, its end, torchrun and SLURM signal every process of a run. The training
process then saves its state after the step in progress, for which it may still need batches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

__all__ = ["outlive_signals"]


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
