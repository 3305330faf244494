"""Alternating measurements in one process, whose ratios mean something on a busy machine."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

__all__ = ["Turns", "give_back_memory", "take_turns"]


@dataclass(frozen=True)
class Turns:
    """Milliseconds of each candidate, turn by turn."""

    times: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def spread(self, name: str) -> tuple[float, float]:
        """First and third quartile; the extremes where there are fewer than four turns."""
        times = self.times[name]
        if len(times) < 4:
            return min(times), max(times)
        first, _, third = statistics.quantiles(times, n=4)
        return first, third

    def ratio(self, name: str, to: str) -> tuple[float, float, float]:
        """Median and quartiles of the ratios of neighbouring turns."""
        ratios = [a / b for a, b in zip(self.times[name], self.times[to], strict=True)]
        return statistics.median(ratios), *Turns({"": ratios}).spread("")


def take_turns(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    device: torch.device,
    at_least: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns:
    """Run the candidates one after the other, again and again, for about `seconds`.

    On a GPU the device's own time is taken, else that of `clock`: with ``time.process_time`` other
    load of the machine matters little. Every candidate runs once before it counts.
    """
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end, turns = time.perf_counter() + seconds, 0
    while turns < at_least or time.perf_counter() < end:
        for name, run in candidates.items():
            times[name].append(_milliseconds(run, device, clock))
        turns += 1
    return Turns(times)


def give_back_memory() -> None:
    """Return freed memory, which is otherwise kept in pieces: the next maps may be larger."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _milliseconds(
    run: Callable[[], object], device: torch.device, clock: Callable[[], float]
) -> float:
    if device.type != "cuda":
        start = clock()
        run()
        return (clock() - start) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last)
