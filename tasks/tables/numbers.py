"""A table on one data set: the lines that were chosen for its rows, and every number of it.

Markdown, LaTeX, CSV, figures and the page of all results show nothing but such sheets.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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
    setting: str
    quantity: str
    # Seeds and values, in the table's unit.
    points: list[tuple[int, float]]
    # Whether others' values could stand beside it.
    compares: bool = False
    reported: float | None = None
    independent: float | None = None

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]

    @property
    def difference(self) -> float | None:
        """Our mean less the reported value."""
        if self.reported is None or not self.points:
            return None
        return statistics.mean(self.values) - self.reported

    def less(self, other: Number) -> list[float]:
        """Its differences from another's values, for each seed that both have."""
        theirs = dict(other.points)
        return [value - theirs[seed] for seed, value in self.points if seed in theirs]

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
        points = [(r["seed"], r["summary"][key]) for r in self.of(row) if key in r["summary"]]
        number = self._number(row, self.table.columns.get(key, key), points)
        if not self.compares or key != self.table.metric:
            return number
        return replace(number, compares=True, reported=row.reported, independent=row.independent)

    def reference(self, row: Row) -> Row:
        """The first row of its network and setting, such as the baseline."""
        place = row.network, row.setting
        return next(r for r in self.table.rows if (r.network, r.setting) == place)

    def parts(self, row: Row) -> dict[str, Number]:
        """The parts that a row's value is the mean of, such as corruptions, without the clean one.

        Those that the independent reproduction has come first, in its order.
        """
        found = [(r["seed"], breakdown_of(r)) for r in self.of(row)]
        independent = row.independent_per_corruption if self.compares else None
        others = dict(zip(CORRUPTIONS, independent, strict=True)) if independent else {}
        numbers = {}
        for name in dict.fromkeys([*others, *(n for _, parts in found for n in parts)]):
            points = [(seed, parts[name]) for seed, parts in found if name in parts]
            number = self._number(row, f"{self.table.breakdown}: {name}", points)
            numbers[name] = replace(number, compares=name in others, independent=others.get(name))
        numbers.pop("clean", None)
        return numbers

    def average(self, rows: dict[str, Row]) -> Number:
        """The metric's mean over settings, for each seed that every setting has.

        Args:
            rows: of one method, see :meth:`methods`.
        """
        key, first = self.table.metric, next(iter(rows.values()))
        reported = [row.reported for row in rows.values() if row.reported is not None]
        settings = len({row.setting for row in self.table.rows})
        whole = self.compares and len(reported) == settings
        each = [{r["seed"]: r["summary"][key] for r in self.of(row)} for row in rows.values()]
        common = set.intersection(*map(set, each)) if len(each) == settings else set()
        means = ((seed, statistics.mean(own[seed] for own in each)) for seed in sorted(common))
        return replace(
            self._number(first, self.table.columns[key], means),
            setting="average",
            compares=self.compares,
            reported=statistics.mean(reported) if whole else None,
        )

    def _number(self, row: Row, quantity: str, found: Iterable[tuple[int, float]]) -> Number:
        points = [(seed, self.table.scale * value) for seed, value in found]
        return Number(sheet=self, row=row, setting=row.setting, quantity=quantity, points=points)

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


def compared(
    tables: Iterable[Table], results: Path, asked: Callable[[Table], Asked] | None = None
) -> list[Number]:
    """Every number that has run on the paper's data and that the paper reports."""
    sheets = (
        sheets_of(table, results, asked and asked(table)).get(table.dataset)
        for table in tables
        if table.paper
    )
    numbers = (number for sheet in sheets if sheet for number in sheet.numbers())
    return [number for number in numbers if number.difference is not None]
