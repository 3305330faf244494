"""Where every row of a table stands, without running anything: for `reproduce.py --list`.

A row is known by its result lines and run directories, wherever its data lie. Command lines are
parsed for rows of which there is something, as that takes a good part of a second each.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tasks.costs import amount, operations_of
from tasks.results import scan
from tasks.run_directory import portable
from tasks.table_records import dataset_of, same_recipe, stands
from tasks.table_runs import Places, Run, State, runs_of
from tasks.table_spec import Row, Table
from tasks.table_text import cell

__all__ = ["RowState", "describe", "row_states_of"]

Record = dict[str, Any]


@dataclass(kw_only=True)
class RowState:
    """One row of a list.

    Args:
        row: it.
        states: of its seeds.
        datasets: true names of the data of its results, with the number of seeds on each.
        other: seeds whose results are of another recipe than is asked for.
        seconds: that its trainings took.
        devices: that they ran on.
    """

    row: Row
    states: list[State]
    datasets: Counter[str] = field(default_factory=Counter)
    other: int = 0
    seconds: list[float] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)


def row_states_of(table: Table, rows: list[Row], seeds: int, places: Places) -> list[RowState]:
    """The state of each row's seeds 0 to `seeds` - 1."""
    rows_by_name = {table.run_name(row): row for row in table.rows}
    by_name: dict[str, list[Record]] = {}
    for _, record, fault in scan(places.results / f"{table.task}.jsonl"):
        if record is None or fault:
            continue
        row = rows_by_name.get(record["name"])
        if row is not None and stands(record, table, row):
            by_name.setdefault(record["name"], []).append(record)
    return [
        _row_state(table, row, seeds, places, by_name.get(table.run_name(row), [])) for row in rows
    ]


def _row_state(
    table: Table, row: Row, seeds: int, places: Places, records: list[Record]
) -> RowState:
    runs = runs_of(table, [row], seeds, places)
    if not records and not any(run.touched() for run in runs):
        return RowState(row=row, states=["not run"] * len(runs))
    recipe = runs[0].recipe()
    if recipe is None:
        return RowState(row=row, states=["refused"] * len(runs))
    asked = portable(recipe)
    own = [record for record in records if same_recipe(record["recipe"], asked)]
    by_seed = {record["seed"]: record for record in own}
    found = RowState(row=row, states=[_state(run, by_seed, records) for run in runs])
    found.datasets.update(dataset_of(record, table) for record in by_seed.values())
    found.other = len({record["seed"] for record in records} - by_seed.keys())
    for record in by_seed.values():
        if seconds := (record.get("finished") or {}).get("seconds"):
            found.seconds.append(seconds)
            found.devices.add(str(record.get("device")))
    return found


def _state(run: Run, done: dict[int, Record], records: list[Record]) -> State:
    if run.seed in done:
        return "done"
    if run.held():
        return "running"
    if run.failure.exists():
        return "failed"
    # A directory whose run has a result, of another recipe, is no beginning of this one.
    ended = {f"seed{r['seed']}-{r.get('config_hash')}" for r in records}
    begun = run.trained.folder.glob(f"seed{run.seed}-*")
    return (
        "partial" if any(path.name.partition(".")[0] not in ended for path in begun) else "not run"
    )


def describe(state: RowState, table: Table, tflops: float) -> str:
    """One line of the list."""
    counts = Counter(state.states)
    parts = []
    for name, n in counts.items():
        several = "seed" if n == 1 else "seeds"
        parts.append(f"{name} {n} {several}" if name == "done" or len(counts) > 1 else name)
    if state.other:
        parts.append(f"{state.other} of another recipe")
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
