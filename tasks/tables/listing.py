"""Where every row of a table stands, without running anything: for `reproduce.py --list`.

Where a run stands is what :mod:`tasks.tables.states` says, as for the runner; what is published of
a row is said beside it. Command lines are parsed for rows of which there is something, as that
takes a good part of a second each.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

from tasks.tables.cells import cell
from tasks.tables.costs import amount, operations_of
from tasks.tables.lines import dataset_of
from tasks.tables.spec import Row, Table
from tasks.tables.states import Measured, Places, Run, State, lines_in, measured, runs_of

__all__ = ["RowState", "describe", "row_states_of"]


@dataclass(kw_only=True)
class RowState:
    """One row of a list.

    Args:
        row: it.
        states: of its seeds.
        published: how many of its seeds are published, by the recipe and on the data given now.
        datasets: true names of the data of its results, with the number of seeds on each.
        other: seeds whose results are of another recipe than is asked for.
        other_data: seeds whose results are on other data than are given now.
        seconds: that its trainings took.
        devices: that they ran on.
    """

    row: Row
    states: list[State]
    published: int = 0
    datasets: Counter[str] = field(default_factory=Counter)
    other: int = 0
    other_data: int = 0
    seconds: list[float] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)


def row_states_of(table: Table, rows: list[Row], seeds: int, places: Places) -> list[RowState]:
    """The state of each row's seeds 0 to `seeds` - 1."""
    found = measured(places, table)
    published = lines_in(table, places.published)
    return [_row_state(row, runs_of(table, [row], seeds, places), found, published) for row in rows]


def _row_state(row: Row, runs: list[Run], found: Measured, published: Measured) -> RowState:
    state = RowState(row=row, states=[run.state(found) for run in runs])
    if set(state.states) == {"refused"}:
        return state
    state.published = sum(run.result(published) is not None for run in runs)
    for run in runs:
        record = run.result(found)
        if record is None:
            lines = run.lines(found)
            state.other_data += bool(lines)
            state.other += not lines and (run.table.run_name(row), run.seed) in found
            continue
        state.datasets[dataset_of(record, run.table)] += 1
        if seconds := (record.get("finished") or {}).get("seconds"):
            state.seconds.append(seconds)
            state.devices.add(str(record.get("device")))
    return state


def describe(state: RowState, table: Table, tflops: float) -> str:
    """One line of the list."""
    counts = Counter(state.states)
    parts = []
    for name, n in counts.items():
        several = "seed" if n == 1 else "seeds"
        parts.append(f"{name} {n} {several}" if name == "done" or len(counts) > 1 else name)
    if state.other:
        parts.append(f"{state.other} of another recipe")
    if state.other_data:
        parts.append(f"{state.other_data} on other data")
    if state.published:
        parts.append(f"published {state.published}")
    cost = amount(operations_of(table, state.row), tflops)
    if state.seconds:
        hours = statistics.mean(state.seconds) / 3600
        took = f"{hours:.1f} h" if hours >= 0.1 else f"{3600 * hours:.0f} s"
        cost += f" (took {took} on {', '.join(sorted(state.devices))})"
    line = f"  {state.row.key:<42} {', '.join(parts):<30} cost: {cost:<18}"
    if table.compares:
        line += f" reported: {cell(state.row.reported)}"
    if state.datasets:
        data = (f"{name} ({n})" if n > 1 else name for name, n in state.datasets.items())
        line += f"  on: {', '.join(data)}"
    return line
