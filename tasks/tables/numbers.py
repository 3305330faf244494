"""A table on one data set: the lines that were chosen for its rows, and every number of it.

Markdown, LaTeX, CSV, figures and the page of all results show nothing but such sheets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.corruptions.recipes import CORRUPTIONS
from tasks.tables.lines import Asked, Runs, gather
from tasks.tables.spec import Row, Table

__all__ = ["Number", "Sheet", "breakdown_of", "compared", "sheets_of"]

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Number:
    """One quantity of one row on one data set: its values, and what others have for it."""

    sheet: Sheet
    row: Row
    quantity: str
    setting: str
    # In the table's unit, each of the seed at its place.
    values: list[float]
    seeds: list[int]
    # Whether others' values could stand beside it.
    compares: bool = False
    reported: float | None = None
    independent: float | None = None

    @property
    def difference(self) -> float | None:
        """Our mean less the reported value."""
        if self.reported is None or not self.values:
            return None
        return statistics.mean(self.values) - self.reported

    @property
    def title(self) -> str:
        row = self.row
        parts = (self.sheet.table.key, row.network, self.setting, row.name, self.quantity)
        return ", ".join(filter(None, parts))


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table on one data set.

    Args:
        table: whose rows they are.
        dataset: true name of the data.
        runs: the records of each row, by the row's key.
        published: whether these are the published ones.
    """

    table: Table
    dataset: str
    runs: Runs = field(default_factory=dict)
    published: bool = False

    @property
    def compares(self) -> bool:
        """Whether values of others stand beside ours: on the table's own data alone."""
        return self.table.compares and self.dataset == self.table.dataset

    @property
    def title(self) -> str:
        own = self.dataset == self.table.dataset
        return self.table.title if own else f"{self.dataset}: {self.table.title.split(': ')[-1]}"

    @property
    def whose(self) -> str:
        """What its title says where it is none of the published ones."""
        return "" if self.published else " (own runs)"

    @property
    def records(self) -> list[Record]:
        """Those of all rows."""
        return [record for records in self.runs.values() for record in records]

    def of(self, row: Row) -> list[Record]:
        """A row's records."""
        return self.runs.get(row.key, [])

    def name(self, row: Row) -> str:
        """A row's name, with what else tells it from the others."""
        several = len({(r.network, r.setting) for r in self.table.rows}) > 1
        parts = (row.network, row.setting, row.name) if several else (row.name,)
        return " ".join(filter(None, parts))

    def number(self, row: Row, key: str = "") -> Number:
        """A row's value of a key of the summary, by default of the table's metric."""
        key = key or self.table.metric
        main = self.compares and key == self.table.metric
        return Number(
            sheet=self,
            row=row,
            setting=row.setting,
            quantity=self.table.columns.get(key, key),
            **self._measured([(r["seed"], r["summary"]) for r in self.of(row)], key),
            compares=main,
            reported=row.reported if main else None,
            independent=row.independent if main else None,
        )

    def parts(self, row: Row) -> dict[str, Number]:
        """The parts that a row's value is the mean of, such as corruptions, without the clean one.

        Those that the independent reproduction has come first, in its order.
        """
        found = [(r["seed"], breakdown_of(r)) for r in self.of(row)]
        independent = row.independent_per_corruption if self.compares else None
        others = dict(zip(CORRUPTIONS, independent, strict=True)) if independent else {}
        names = dict.fromkeys([*others, *(name for _, parts in found for name in parts)])
        return {
            name: Number(
                sheet=self,
                row=row,
                setting=row.setting,
                quantity=f"{self.table.breakdown}: {name}",
                **self._measured(found, name),
                compares=name in others,
                independent=others.get(name),
            )
            for name in names
            if name != "clean"
        }

    def average(self, rows: dict[str, Row]) -> Number:
        """The metric's mean over settings, for each seed that every setting has.

        Args:
            rows: of one method, see :meth:`methods`.
        """
        settings = {row.setting for row in self.table.rows}
        numbers = [self.number(rows[s]) if s in rows else None for s in settings]
        each = [dict(zip(n.seeds, n.values, strict=True)) if n else {} for n in numbers]
        common = sorted(set.intersection(*map(set, each)))
        reported = [row.reported for row in rows.values() if row.reported is not None]
        whole = self.compares and len(reported) == len(settings)
        return Number(
            sheet=self,
            row=next(iter(rows.values())),
            setting="average",
            quantity=self.table.columns[self.table.metric],
            values=[statistics.mean(own[seed] for own in each) for seed in common],
            seeds=common,
            compares=self.compares,
            reported=statistics.mean(reported) if whole else None,
        )

    def methods(self) -> list[dict[str, Row]]:
        """The rows of each method and network by their setting."""
        found: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self.table.rows:
            found.setdefault((row.network, row.name), {})[row.setting] = row
        return list(found.values())

    def numbers(self) -> Iterator[Number]:
        """Every number, also those that have not run."""
        for row in self.table.rows:
            yield from (self.number(row, key) for key in self.table.columns)
            yield from self.parts(row).values()
        if self.table.pivot:
            yield from map(self.average, self.methods())

    def _measured(self, found: list[tuple[int, dict[str, float]]], key: str) -> dict[str, Any]:
        own = [(seed, self.table.scale * values[key]) for seed, values in found if key in values]
        return {"values": [value for _, value in own], "seeds": [seed for seed, _ in own]}


def sheets_of(
    table: Table,
    results: Path,
    asked: Asked | None = None,
    *,
    published: bool = False,
    notes: list[str] | None = None,
) -> dict[str, Sheet]:
    """The table on each data set of its result lines; see :func:`tasks.tables.lines.gather`.

    `notes` takes a sentence on each kind of line that was left out.
    """
    found, left_out = gather(table, results, asked)
    if notes is not None:
        notes += left_out
    return {
        dataset: Sheet(table=table, dataset=dataset, runs=runs, published=published)
        for dataset, runs in found.items()
    }


def breakdown_of(record: Record) -> dict[str, float]:
    """A record's main value by its parts: mean error of each corruption, or what the task names."""
    if "breakdown" in record:
        return dict(record["breakdown"])
    errors: dict[str, list[float]] = {}
    for condition in record.get("conditions", []):
        errors.setdefault(condition["corruption"], []).append(condition["error"])
    return {name: statistics.mean(values) for name, values in errors.items()}


def compared(tables: Iterable[Table], results: Path) -> list[Number]:
    """Every number that has run on the paper's data and that the paper reports."""
    sheets = (sheets_of(table, results).get(table.dataset) for table in tables if table.paper)
    numbers = (number for sheet in sheets if sheet for number in sheet.numbers())
    return [number for number in numbers if number.difference is not None]
