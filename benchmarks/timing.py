"""Turns of several sides in one process, and the table of what they took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

__all__ = ["Table", "Times", "clock_of", "take_turns"]

WARM_UP = 2
LEAST = 5


class Times(list[float]):
    """Seconds of each turn."""

    @property
    def median(self) -> float:
        return statistics.median(self)

    def quartiles(self) -> tuple[float, float]:
        first, _, third = statistics.quantiles(self, n=4)
        return first, third

    def rates(self, units: int) -> tuple[str, str]:
        """Units a second: the median, and the quartiles."""
        first, third = self.quartiles()
        return f"{units / self.median:,.0f}", f"{units / third:,.0f} to {units / first:,.0f}"


def clock_of(device: torch.device) -> Callable[[], float]:
    """On a GPU the clock, once its work is done; else the processor's time of this process.

    The processor's time does not measure what else the machine does.
    """
    if device.type == "cpu":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    clock: Callable[[], float],
    seconds: float,
    *,
    least: int = LEAST,
) -> dict[str, Times]:
    """Run the sides in turn for about `seconds` each, after two turns to warm up.

    Args:
        sides: what is measured.
        clock: see :func:`clock_of`.
        seconds: for each side, on average.
        least: turns that all take whatever the time.
    """
    found = {name: Times() for name in sides}
    turn, spent = 0, 0.0
    while turn < WARM_UP + least or spent < seconds * len(sides):
        for name, work in sides.items():
            start = clock()
            work()
            took = clock() - start
            if turn >= WARM_UP:
                found[name].append(took)
                spent += took
        turn += 1
    return found


class Table:
    """A table in Markdown."""

    def __init__(self, *header: str) -> None:
        self.lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]

    def add(self, *cells: object) -> None:
        self.lines.append(f"| {' | '.join(map(str, cells))} |")

    def __str__(self) -> str:
        return "\n".join(self.lines)
