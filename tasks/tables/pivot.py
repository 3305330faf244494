"""From a sheet to lines of cells: what stands in which line and column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tasks.tables.cells import Lines, cell, paired, spread
from tasks.tables.numbers import Sheet
from tasks.tables.spec import Row

__all__ = ["main_lines", "parts_across", "parts_down"]

# The cells that a line begins with, the header of a column, and what stands there.
Cell = tuple[tuple[str, ...], str, str]
OURS, OTHERS = "ours", "independent"
# Over the seeds that both rows have.
_PAIRED = "less {}, seed by seed (n)"


def pivot(cells: Iterable[Cell], head: Sequence[str]) -> Lines:
    """Header and lines, both in the order in which they come first; "" where nothing stands.

    Args:
        cells: of all lines and columns.
        head: header of what lines begin with.
    """
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for line, column, text in cells:
        lines.setdefault(line, {})[column] = text
    columns = list(dict.fromkeys(column for own in lines.values() for column in own))
    body = ([*line, *(own.get(c, "") for c in columns)] for line, own in lines.items())
    return [[*head, *columns], *body]


def main_lines(sheet: Sheet) -> Lines:
    """A line a row and a column a quantity, or a line a method and a column a setting."""
    if sheet.table.pivot:
        return pivot(_by_setting(sheet), ["network", "method"])
    settings = [sheet.table.setting] if any(row.setting for row in sheet.table.rows) else []
    return pivot(_by_quantity(sheet, len(settings)), ["network", *settings, "method"])


def _by_quantity(sheet: Sheet, settings: int) -> Iterator[Cell]:
    for row in sheet.table.rows:
        line = (row.network, *[row.setting][:settings], row.name)
        for key, title in sheet.table.columns.items():
            yield line, title, spread(sheet.number(row, key).values)
        yield line, "seeds", str(len(sheet.of(row)))
        if sheet.compares:
            main = sheet.number(row)
            yield line, "reported", cell(main.reported)
            yield line, "independent", cell(main.independent)
            yield line, "ours - reported", _signed(main.difference)
        first = sheet.reference(row)
        title = f"{sheet.table.columns[sheet.table.metric]}: {_PAIRED.format(first.name)}"
        if first is not row and (apart := paired(sheet.number(row).less(sheet.number(first)))):
            yield line, title, apart


def _by_setting(sheet: Sheet) -> Iterator[Cell]:
    """The mean stands only where every setting has run, with the seeds that all of them have."""
    settings = dict.fromkeys(row.setting for row in sheet.table.rows)
    for rows in sheet.methods():
        average = sheet.average(rows)
        line = (average.row.network, average.row.name)
        values = {s: sheet.number(rows[s]).values if s in rows else [] for s in settings}
        yield from ((line, setting, spread(own)) for setting, own in values.items())
        yield line, "average", spread(average.values)
        counts = sorted(map(len, values.values()))
        yield line, "seeds", "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        if sheet.compares:
            yield line, "reported average", cell(average.reported)
            yield line, "ours - reported", _signed(average.difference)
        first = sheet.reference(average.row)
        others = next(own for own in sheet.methods() if first in own.values())
        if others != rows and (apart := paired(average.less(sheet.average(others)))):
            yield line, f"average: {_PAIRED.format(first.name)}", apart


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def parts_down(sheet: Sheet) -> Lines:
    """A line a part, a column a row and source."""
    several = len({row.network for row in sheet.table.rows}) > 1

    def cells() -> Iterator[Cell]:
        for row, source, texts in _parts(sheet, unmeasured=False):
            place = (row.network if several else "", row.setting, row.name)
            title = " ".join(filter(None, (*place, f"({source})" if source != OURS else "")))
            yield from (((part,), title, text) for part, text in texts.items())

    return pivot(cells(), [sheet.table.breakdown])


def parts_across(sheet: Sheet) -> Lines:
    """A line a row and source, a column a part, and the number of seeds."""

    def cells() -> Iterator[Cell]:
        for row, source, texts in _parts(sheet, unmeasured=True):
            line = (row.network, f"{row.name}, {row.setting}" if row.setting else row.name, source)
            yield from ((line, part.replace("_", " "), text) for part, text in texts.items())
            seeds = {seed for number in sheet.parts(row).values() for seed, _ in number.points}
            yield line, "seeds", str(len(seeds)) if source == OURS else ""

    return pivot(cells(), ["network", "method", "by"])


def _parts(sheet: Sheet, *, unmeasured: bool) -> Iterator[tuple[Row, str, dict[str, str]]]:
    """Row, source, and the value of each part: ours, and the independent reproduction's.

    `unmeasured` says whether ours also stand where only the other source has values.
    """
    found = [(row, sheet.parts(row)) for row in sheet.table.rows]
    names = dict.fromkeys(name for _, parts in found for name in parts)
    for row, parts in found:
        ours = {name: spread(number.values) for name, number in parts.items()}
        others = {
            name: spread([number.independent])
            for name, number in parts.items()
            if number.independent is not None
        }
        if any(unmeasured or number.values for number in parts.values()):
            yield row, OURS, {name: ours.get(name, spread([])) for name in names}
        if others:
            yield row, OTHERS, {name: others.get(name, "") for name in names}
