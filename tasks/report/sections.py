"""The section of a table: the table itself, bars, heat maps, reliability diagrams, curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.report.charts import (
    Bar,
    Line,
    bars,
    heat_map,
    legend,
    line_chart,
    reliability_diagram,
    views,
)
from tasks.report.markup import Markup, grid, paragraph, sentence, table, tag
from tasks.report.runs import Run, curves_section, pictures_section
from tasks.tables.cells import Block
from tasks.tables.numbers import Sheet
from tasks.tables.spec import Row

__all__ = ["Group", "laid_out", "pooled_ece", "table_section"]

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Group:
    """What one section shows.

    Attributes:
        sheet: the records that it compares.
        blocks: the text and tables that it begins with.
        directories: run directories of its rows.
        source: "own" or "published"; "" where there is nothing to tell apart.
    """

    sheet: Sheet
    blocks: Sequence[Block]
    directories: Sequence[Run] = ()
    source: str = ""


def ran(sheet: Sheet) -> list[Row]:
    """The rows that have records."""
    return [row for row in sheet.table.rows if sheet.of(row)]


def colour(sheet: Sheet, row: Row) -> int:
    """One a method, whatever its network and setting."""
    return list(dict.fromkeys(r.name for r in sheet.table.rows)).index(row.name)


def facets_of(sheet: Sheet) -> dict[str, list[Row]]:
    """Rows of one network and setting, which are compared with one another."""
    found: dict[str, list[Row]] = {}
    for row in ran(sheet):
        found.setdefault(", ".join(filter(None, (row.network, row.setting))), []).append(row)
    return found


def table_section(group: Group) -> Markup:
    """All that can be shown of a group; what is missing is left out with a sentence."""
    sheet = group.sheet
    title, shown, folded = laid_out(group.blocks)
    title += " (published)" if group.source == "published" else ""
    parts = [tag("h2", title), *shown]
    for name, make in (("bars", _bars), ("corruptions", _corruptions), ("bins", _reliability),
                       ("history", _history)):  # fmt: skip
        try:
            parts += make(sheet)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            parts.append(sentence(f"Not drawn ({name}): a line of another version ({what})."))
    if group.directories:
        rows = {sheet.table.run_name(row): row for row in sheet.table.rows}
        names = {name: (sheet.name(row), colour(sheet, row)) for name, row in rows.items()}
        runs = sorted(group.directories, key=lambda run: (list(rows).index(run.name), run.seed))
        parts += curves_section(runs, names)
        parts += pictures_section(runs, names)
    elif ran(sheet):
        parts.append(sentence("No curves of single runs: their run directories were not given."))
    return Markup("".join([*parts, *folded]))


def laid_out(blocks: Iterable[Block]) -> tuple[str, list[Markup], list[Markup]]:
    """A table's title, what comes first of it, and what is folded away: parts and provenance."""
    title, shown, folded = "", [], []
    detail = ""
    for kind, content in blocks:
        if kind == "h1" and isinstance(content, str):
            title = content
        elif kind.startswith("h") and isinstance(content, str):
            detail = content
        elif kind == "table" and detail:
            summary = tag("summary", detail)
            folded.append(tag("details", summary, table(content)))
            detail = ""
        elif kind == "table":
            shown.append(table(content))
        elif isinstance(content, str):
            small = content.startswith(("Data: ", "Made by "))
            block = tag("div", paragraph(content), class_="fine") if small else paragraph(content)
            (folded if small else shown).append(block)
    return title, shown, folded


def _bars(sheet: Sheet) -> list[Markup]:
    facets, table = facets_of(sheet), sheet.table
    # Rows of several networks or settings are compared by the main value alone.
    keys = [table.metric]
    if len(facets) == 1:
        keys += [key for key in table.columns if key != table.metric]
    charts = []
    for facet, rows in facets.items():
        for key in keys:
            numbers = [sheet.number(row, key) for row in rows]
            drawn = [
                Bar(number.row.name, colour(sheet, number.row), values, number.reported)
                for number in numbers
                if (values := list(filter(math.isfinite, number.values)))
            ]
            if drawn:
                note = facet if len(facets) > 1 else ""
                charts.append(bars(numbers[0].quantity, drawn, note))
    if not charts:
        return []
    seeds = max(len(records) for records in sheet.runs.values())
    text = (
        "Whiskers: one standard deviation over seeds. " if seeds > 1 else "One seed: no whiskers. "
    )
    marked = sheet.compares and any(row.reported is not None for row in ran(sheet))
    text += "Diamonds: reported values." if marked else ""
    return [grid(charts), sentence(text)]


def conditions_of(records: Sequence[Record], key: str, scale: float) -> dict[str, dict[int, float]]:
    """Means over records by corruption and severity, the clean condition left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for record in records:
        for condition in record.get("conditions", []):
            if condition["severity"] and condition.get(key) is not None:
                cells = found.setdefault(condition["corruption"], {})
                cells.setdefault(condition["severity"], []).append(scale * condition[key])
    return {
        name: {severity: statistics.mean(values) for severity, values in cells.items()}
        for name, cells in found.items()
    }


def _corruptions(sheet: Sheet) -> list[Markup]:
    rows = [row for row in ran(sheet) if any(r.get("conditions") for r in sheet.of(row))]
    if not rows:
        return []
    shown = {}
    for key, name in (("error", "error in %"), ("ece", "ECE in %")):
        cells = {row.key: conditions_of(sheet.of(row), key, sheet.table.scale) for row in rows}
        if not any(cells.values()):
            continue
        shown[name] = _heat_maps(sheet, rows, cells)
        if len(rows) > 1 and key == "error":
            shown[f"error against {rows[0].name}"] = _differences(sheet, rows, cells)
    if not shown:
        return []
    text = "Columns: severity. Means over seeds; all maps of a view share one scale."
    return [
        tag("h3", "Corruption and severity"), views(shown, next(iter(shown))), sentence(text),
    ]  # fmt: skip


Cells = dict[str, dict[int, float]]


def _heat_maps(sheet: Sheet, rows: Sequence[Row], cells: Mapping[str, Cells]) -> Markup:
    values = [v for own in cells.values() for line in own.values() for v in line.values()]
    low, high = min(values), max(values)
    maps = [heat_map(sheet.name(row), cells[row.key], smallest=low, largest=high) for row in rows]
    return grid(maps, "small")


def _differences(sheet: Sheet, rows: Sequence[Row], cells: Mapping[str, Cells]) -> Markup:
    """Each method's error less that of the first method of its network and setting."""
    firsts: dict[tuple[str, str], Cells] = {}
    changes: dict[str, Cells] = {}
    for row in rows:
        first = firsts.setdefault((row.network, row.setting), cells[row.key])
        if first is cells[row.key]:
            continue
        changes[row.key] = {
            name: {s: v - first[name][s] for s, v in line.items() if s in first.get(name, {})}
            for name, line in cells[row.key].items()
        }
    values = [abs(v) for own in changes.values() for line in own.values() for v in line.values()]
    largest = max(values, default=0.0)
    maps = [
        heat_map(sheet.name(row), changes[row.key], smallest=0, largest=largest, signed=True)
        for row in rows
        if row.key in changes
    ]
    return grid(maps, "small")


def _reliability(sheet: Sheet) -> list[Markup]:
    charts = []
    names: dict[str, int] = {}
    for row in ran(sheet):
        parts = _summed_bins([r["reliability"] for r in sheet.of(row) if "reliability" in r])
        if parts:
            errors = ", ".join(f"{name} {100 * pooled_ece(b):.1f}" for name, b in parts.items())
            note = f"pooled ECE in %: {errors}"
            charts.append(reliability_diagram(sheet.name(row), parts, note))
            names |= dict.fromkeys(parts, 0)
    if not charts:
        text = (
            "No reliability diagrams: these result lines hold no bins of confidence; a test adds "
        )
        text += "them to new ones."
        missing = any("ece" in r["summary"] for r in sheet.records)
        return [sentence(text)] if missing else []
    from tasks.report.charts import REGIONS

    colours = {name: REGIONS[i % len(REGIONS)] for i, name in enumerate(names)}
    text = (
        "Accuracy in % over confidence, all seeds together; below the dashed line predictions are "
    )
    text += "too sure. A dot's area is its share of the samples. Pooled ECE: of these bins, where "
    text += "gaps of opposite sign cancel; tables take the mean of each seed's own ECE"
    text += ", and of each corrupted condition's" if "corrupted" in names else ""
    text += ", which is never smaller."
    return [tag("h3", "Reliability"), legend(colours), grid(charts, "small"), sentence(text)]


def _summed_bins(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Bins of all seeds together, by part."""
    parts: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(name for bins in found for name in bins):
        own = [bins[name] for bins in found if name in bins]
        n = [sum(ns) for ns in zip(*(bins["n"] for bins in own), strict=True)]
        parts[name] = {"n": n}
        for key in ("accuracy", "confidence"):
            sums = [
                sum(count * value for count, value in pairs)
                for pairs in zip(*(zip(b["n"], b[key], strict=True) for b in own), strict=True)
            ]
            parts[name][key] = [s / max(count, 1) for s, count in zip(sums, n, strict=True)]
    return parts


def pooled_ece(bins: Mapping[str, Sequence[float]]) -> float:
    """Of all samples in the bins, whichever seed, and whichever condition, they are of."""
    gaps = zip(bins["n"], bins["accuracy"], bins["confidence"], strict=True)
    return sum(n * abs(a - c) for n, a, c in gaps) / max(sum(bins["n"]), 1)


def _history(sheet: Sheet) -> list[Markup]:
    """Curves that the result lines themselves carry, as means over seeds."""
    panels: dict[str, list[Line]] = {}
    shown: dict[str, int] = {}
    for row in ran(sheet):
        points: dict[str, dict[float, list[float]]] = {}
        for record in sheet.of(row):
            for point in record.get("history", []):
                for key in point.keys() - {"epoch"}:
                    own = points.setdefault(key, {}).setdefault(point["epoch"], [])
                    own.append(sheet.table.scale * point[key])
        for key, by_epoch in sorted(points.items()):
            curve = [(epoch, statistics.mean(v)) for epoch, v in sorted(by_epoch.items())]
            spread = [
                statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in sorted(by_epoch.items())
            ]
            title = sheet.name(row)
            shown[title] = colour(sheet, row)
            panels.setdefault(key, []).append(Line(title, colour(sheet, row), curve, spread))
    if not panels:
        return []
    charts = [line_chart(key, lines, x_title="epoch", note="in %") for key, lines in panels.items()]
    text = "Means over seeds; bands are one standard deviation."
    return [tag("h3", "After each epoch"), legend(shown), grid(charts), sentence(text)]
