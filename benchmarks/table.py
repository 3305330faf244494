"""Tables of measurements in Markdown."""

from __future__ import annotations

from benchmarks.timing import Turns

__all__ = ["Table", "rates"]


class Table:
    """Rows under a header; each is printed as soon as it is known."""

    def __init__(self, *header: str) -> None:
        self.lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]

    def add(self, *cells: object) -> None:
        self.lines.append(f"| {' | '.join(map(str, cells))} |")
        print(self.lines[-1], flush=True)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def rates(turns: Turns, name: str, units: int) -> tuple[str, str]:
    """Units a second of a candidate that does `units` a turn: the median, and the quartiles."""
    first, third = turns.spread(name)
    per_second = [1000 * units / time for time in (turns.median(name), third, first)]
    return f"{per_second[0]:,.0f}", f"{per_second[1]:,.0f}-{per_second[2]:,.0f}"
