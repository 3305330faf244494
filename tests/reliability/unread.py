"""Trainings whose output nobody reads, and ones that lose patience soon; each in its process."""

from __future__ import annotations

import os
import signal
from typing import Any

from tasks import text
from tasks.runs import processes
from tests.reliability.faults import Fault, Patches
from tests.reliability.launcher import _forget_parents_rank

__all__ = ["fit", "fit_impatiently"]


def fit(arguments: list[str], kind: str, fault: dict[str, Any], hang_up: str) -> None:
    """With a closed "pipe" or "terminal" for output, and SIGHUP as the shell or nohup gives it."""
    read, write = os.pipe() if kind == "pipe" else os.openpty()
    os.close(read)
    signal.signal(signal.SIGHUP, getattr(signal, hang_up))
    Fault(**fault).plan(text.TASK, Patches)
    for target in (1, 2):
        os.dup2(write, target)
    text.main(arguments)


def fit_impatiently(arguments: list[str], fault: dict[str, Any] | None) -> None:
    """One of several processes."""
    processes.STUCK = 3.0
    _forget_parents_rank()
    if fault is not None:
        Fault(**fault).plan(text.TASK, Patches)
    text.main(arguments)
