"""Soaks that were run, one line each, and the table of the last one of every task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import machine
from tasks.engine.results import append_result, scan
from tests.reliability.launcher import TASKS

if TYPE_CHECKING:
    from tests.reliability.soak import Soak

# Not beside the results of runs, whose files hold nothing else.
LINES = Path("reliability", "soak.jsonl")
TITLE = "# Soak: what a long training holds"
NOTE = """Each task trains on small generated data, and validates after every epoch of a few steps.
Memory is the training process's resident set: the medians of the first and of the last fifth of the
time after the warm-up. Files, threads and workers: the most at once in the second half of it."""
COLUMNS = (
    "task",
    "minutes",
    "of warm-up",
    "epochs",
    "steps",
    "MiB, first",
    "last",
    "growth",
    "files",
    "threads",
    "workers",
    "leaks",
)


def record(
    folder: Path, found: Soak, *, minutes: float, warm_up: float, commit: str | None
) -> None:
    """Add one line about a soak of `commit` to `folder`/reliability/soak.jsonl."""
    half = found.samples[len(found.samples) // 2 :]
    most = {name: max(getattr(s, name) for s in half) for name in ("files", "threads", "children")}
    first, last = found.memory()
    line = {
        **most,
        "task": found.task,
        "minutes": minutes,
        "warm_up": warm_up,
        "epochs": found.epochs,
        "steps": found.steps,
        "first": first,
        "last": last,
        "growth": found.growth,
        "leaks": found.leaks(),
        "machine": machine(),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    append_result(folder / LINES, line)


def write_table(folder: Path) -> None:
    """The newest line of every task, as `folder`/soak.md.

    Raises:
        ValueError: a line that this table cannot be made of.
    """
    newest: dict[str, dict[str, Any]] = {}
    for number, line, fault in scan(folder / LINES):
        if line is None or not {"task", "growth", "leaks", "machine"} <= set(line):
            raise ValueError(
                f"Expected a soak in line {number} of {folder / LINES}, but got {fault or line}"
            )
        newest[line["task"]] = line
    lines = [newest[task] for task in TASKS if task in newest]
    rows = [COLUMNS, ("---", *("---:",) * (len(COLUMNS) - 2), "---"), *map(_row, lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    (folder / "soak.md").write_text(f"{TITLE}\n\n{NOTE}\n\n{table}\n\n{_made_by(lines)}\n")


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        line["task"],
        f"{line['minutes']:g}",
        f"{line['warm_up']:g}",
        f"{line['epochs']:,}",
        f"{line['steps']:,}",
        *(f"{line[name] / 2**20:,.0f}" for name in ("first", "last")),
        f"{line['growth']:+.2%}",
        *(str(line[name]) for name in ("files", "threads", "children")),
        "; ".join(line["leaks"]) or "none",
    )


def _made_by(lines: list[dict[str, Any]]) -> str:
    """Machines, command and commits, as under every table of results/."""
    machines = "; ".join(sorted({line["machine"] for line in lines}))
    commits = ", ".join(sorted({line["commit"] or "unknown" for line in lines}))
    several = "s" if "," in commits else ""
    return (
        f"{machines}. Made by `python -m tests.reliability.soak --record results`, or with some of "
        f"the tasks named, at commit{several} {commits}."
    )
