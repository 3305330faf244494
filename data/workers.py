"""Loaders whose workers' failures reach the training process, as a sentence and at once.

A worker sends its tensors as open files, over a socket in the folder for temporary files. What
fails there fails in a background thread of the worker: Python prints such an error and goes on,
while the training process waits for that batch for ever.
"""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.queues
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import util
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from data.errors import WorkerError, quoted
from data.processes import outlive_signals

__all__ = ["WorkerLoader", "start_worker", "worker_failure"]

# Longest path of a socket (macOS has 104 bytes with its end), and what is put behind a folder.
SOCKET_PATH = 103
SOCKET_NAME = "/pymp-12345678/listener-12345678"
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
OPEN_FILES = 4096  # a batch in flight takes some
FEW_FILES = 256
FAILED = re.compile(
    r"DataLoader worker .*(exited unexpectedly|is killed by signal)|Too many open files|ancdata|"
    r"Pin memory thread exited",
    re.DOTALL,
)


class WorkerLoader(DataLoader[Any]):
    """torch's loader; give it :func:`start_worker` as its ``worker_init_fn``.

    Raises:
        WorkerError: a worker has ended, or cannot hand over what it read. Errors of the data set
            are as ever.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if self.num_workers:
            _allow_open_files()
            _shorten_sockets()
        try:
            yield from super().__iter__()
        except (OSError, EOFError, RuntimeError) as error:
            # What the data set has raised comes with the worker's traceback, and has own words.
            if not self.num_workers or str(error).startswith("Caught "):
                raise
            raise WorkerError(_sentence(error)) from error


def start_worker(worker: int) -> None:
    """To be a loader's ``worker_init_fn``: it keeps no failure for itself; see the module."""
    outlive_signals(worker)

    def not_sent(queue: Any, error: Exception, batch: Any) -> None:
        if not isinstance(batch, tuple):  # It was on its way: how much has arrived nobody knows.
            _end(type(error), error)
        said = WorkerError(_sentence(error))
        where = f"in DataLoader worker process {worker}"
        queue.put((batch[0], ExceptionWrapper((WorkerError, said, None), where=where)))

    multiprocessing.queues.Queue._on_queue_feeder_error = not_sent  # type: ignore[attr-defined]
    sys.excepthook = _end  # which the thread that hands out open files calls


def _end(kind: type[BaseException], error: BaseException, *_: object) -> None:
    """The training process waits for an answer: only this worker's end frees it."""
    with suppress(OSError):
        os.write(2, f"A loader's worker ends: {kind.__name__}: {quoted(error)}\n".encode())
    os._exit(1)


def worker_failure(error: BaseException) -> str | None:
    """The sentence for an error of torch's on a loader's workers; None for any other.

    Torch raises such an error wherever the training process happens to be.
    """
    return _sentence(error) if FAILED.search(str(error)) else None


def _sentence(error: BaseException) -> str:
    text, advised = quoted(error).split(". ")[0], quoted(error, limit=1000)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = "the system ends one where memory runs out; take fewer `--data.workers`"
    if "AF_UNIX path too long" in text:
        remedy = f"set TMPDIR to a shorter path than {tempfile.gettempdir()}"
    elif "open files" in text or "ancdata" in text or 0 <= limit < FEW_FILES:
        remedy = f"at most {limit} files may be open here: allow more by `ulimit -n {OPEN_FILES}`"
    elif "shared memory" in advised or "No space left" in text:
        remedy = "give /dev/shm more room (docker: --shm-size), or take fewer `--data.workers`"
    return (
        f"Expected the loader's workers to hand over their batches, but got: {text.rstrip('.')}: "
        f"{remedy}, or read in the training process with `--data.workers 0`."
    )


def _allow_open_files() -> None:
    """As many as the system lets a process ask for: by default macOS allows it 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shorten_sockets() -> None:
    """Put workers' sockets, and nothing else, elsewhere where TMPDIR leaves no room for a name.

    Python does so itself from 3.14 on.
    """
    config: dict[str, Any] = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    given = config.get("tempdir") or tempfile.gettempdir()
    if config.get("tempdir") or len(os.fsencode(given + SOCKET_NAME)) <= SOCKET_PATH:
        return
    for folder in SHORT_FOLDERS:
        with suppress(OSError):
            made = tempfile.mkdtemp(prefix="pymp-", dir=folder)
            util.Finalize(None, shutil.rmtree, args=(made, True), exitpriority=-100)
            config["tempdir"] = made
            return
