"""Processes that prepare data for their parent, and end when it does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

__all__ = ["worker_pool"]


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
