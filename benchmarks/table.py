"""Tables of measurements in Markdown."""

from __future__ import annotations

from pathlib import Path

from benchmarks.timing import Turns

__all__ = ["Table", "rates", "save"]


class Table:
    """Rows under a header; all are printed as soon as they are known."""

    def __init__(self, *header: str) -> None:
        self.lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]

    def add(self, *cells: object) -> None:
        new = 0 if len(self.lines) == 2 else -1  # the header with the first row
        self.lines.append(f"| {' | '.join(map(str, cells))} |")
        print("\n".join(self.lines[new:]), flush=True)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def save(text: str, path: Path) -> None:
    """Write a report, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def rates(turns: Turns, name: str, units: int) -> tuple[str, str]:
    """Units a second of a candidate that does `units` a turn: the median, and the quartiles."""
    first, third = turns.spread(name)
    per_second = [1000 * units / time for time in (turns.median(name), third, first)]
    return f"{per_second[0]:,.0f}", f"{per_second[1]:,.0f}-{per_second[2]:,.0f}"
