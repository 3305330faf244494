"""How far several runs have come together, and how long the rest will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["TimeLeft", "in_words"]

# Seconds between two lines while nothing ends: at first, and at most; each pause is twice the last.
BEAT, SLOWEST = 20.0, 320.0


class TimeLeft:
    """Estimates from the runs that have ended: they are taken to be alike.

    Args:
        total: number of runs.
        workers: how many run at once.
        clock: seconds from any moment.
    """

    def __init__(
        self, total: int, workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.workers, self.clock = total, workers, clock
        self._lock = threading.RLock()
        self._began: dict[object, float] = {}
        self._took: list[float] = []
        self.ended = 0

    def start(self, run: object) -> None:
        with self._lock:
            self._began[run] = self.clock()

    def end(self, run: object, *, counts: bool) -> str:
        """Where the runs are after it, in words.

        `counts` says whether its time tells that of the others: not where it failed, say.
        """
        with self._lock:
            took = self.clock() - self._began.pop(run)
            self.ended += 1
            if counts:
                self._took.append(took)
            return str(self)

    def seconds(self) -> float | None:
        """What is left; None until a run has ended."""
        with self._lock:
            if not self._took:
                return None
            mean = sum(self._took) / len(self._took)
            spent = sum(min(mean, self.clock() - began) for began in self._began.values())
            left = mean * (self.total - self.ended) - spent
            # Never less than the last one started still takes by itself.
            last = max((mean - (self.clock() - began) for began in self._began.values()), default=0)
            return max(left / min(self.workers, self.total), last, 0.0)

    def __str__(self) -> str:
        seconds = self.seconds()
        if self.ended == self.total:
            return f"{self.ended} of {self.total} runs ended"
        if seconds is not None:
            return f"{self.ended} of {self.total} runs ended; {in_words(seconds)}"
        first = min(self._began.values(), default=self.clock())
        left = "time left is known after the first"
        running = f"{len(self._began)} running for {self.clock() - first:.0f} s"
        return f"{self.ended} of {self.total} runs ended, {running}; {left}"

    @contextmanager
    def beating(self, say: Callable[[str], None], every: float = BEAT) -> Iterator[None]:
        """Say within it where the runs are, every few seconds, and less often while none ends."""
        over = threading.Event()

        def beat() -> None:
            pause, ended = every, self.ended
            while not over.wait(pause):
                say(f"... {self}")
                pause = every if self.ended > ended else min(2 * pause, max(every, SLOWEST))
                ended = self.ended

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def in_words(seconds: float) -> str:
    """``about 4 min left``."""
    if seconds < 50:
        return f"about {max(10, round(seconds, -1)):.0f} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"
