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
    queued: bool = False,
) -> Turns:
    """Run the candidates one after the other, again and again, for about `seconds`.

    Every candidate runs before it counts: once on CPU, three times on a GPU, where kernels are
    compiled and memory is taken.

    Args:
        candidates: what to run, by name.
        seconds: after which no further turn begins.
        device: where they work. On a GPU a turn is ten runs by the host's clock, from an idle
            device to an idle device: what a user waits for.
        at_least: turns.
        clock: on CPU: with ``time.process_time`` other load of the machine matters little.
        queued: on a GPU, a turn is one run by the device's clock, its launches waiting in the
            queue and its inputs not in the cache: what the kernels take.
    """
    cuda = device.type == "cuda"
    for _ in range(3 if cuda else 1):
        for run in candidates.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    end, turns = time.perf_counter() + seconds, 0
    gpu = _Queue(device) if cuda and queued else None
    while turns < at_least or time.perf_counter() < end:
        for name, run in candidates.items():
            if gpu is not None:
                times[name].append(gpu.milliseconds(run))
            elif cuda:
                times[name].append(_waited(run, 10, device))
            else:
                start = clock()
                run()
                times[name].append((clock() - start) * 1e3)
        turns += 1
    return Turns(times)


def give_back_memory() -> None:
    """Return freed memory, which is otherwise kept in pieces: the next maps may be larger."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _waited(run: Callable[[], object], times: int, device: torch.device) -> float:
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3 / times


class _Queue:
    """Times runs whose kernels follow one another at once, as they do behind a busy device."""

    # Larger than any GPU's cache. Read, not written: dirty lines would be written back in the run.
    FLUSHED = 256 * 2**20

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.other = torch.zeros(self.FLUSHED // 4, device=device)
        self.first, self.last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.cycles = self._cycles_a_millisecond()

    def milliseconds(self, run: Callable[[], object]) -> float:
        ahead = 1.0
        while True:
            torch.cuda.synchronize(self.device)
            self.other.sum()
            torch.cuda._sleep(int(ahead * self.cycles))
            self.first.record()
            start = time.perf_counter()
            run()
            self.last.record()
            host = (time.perf_counter() - start) * 1e3
            # The device still sleeps: nothing that was launched has waited for the host.
            if not self.first.query():
                torch.cuda.synchronize(self.device)
                return self.first.elapsed_time(self.last)
            ahead = 2 * max(ahead, host)
            if ahead > 1000:
                raise RuntimeError("Expected a run that does not wait for the device, but it does.")

    def _cycles_a_millisecond(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1000)
        start.record()
        torch.cuda._sleep(10_000_000)
        end.record()
        torch.cuda.synchronize(self.device)
        return 10_000_000 / start.elapsed_time(end)
