"""Figures made from sheets."""

from __future__ import annotations

import statistics
from pathlib import Path

from tasks.engine.plotting import COLOURS, frameless, pyplot, save
from tasks.tables.numbers import Sheet, breakdown_of

__all__ = ["bars_by_part"]


def bars_by_part(sheet: Sheet, path: Path) -> Path:
    """Bars of the metric by part and method; whiskers are one standard deviation over seeds.

    A part is a corruption, a class, or whatever a value of the table is the mean of.
    """
    table = sheet.table
    parts = [(row, [breakdown_of(record) for record in sheet.of(row)]) for row in table.rows]
    parts = [(row, found) for row, found in parts if any(found)]
    names = list(dict.fromkeys(n for _, found in parts for part in found for n in part))
    figure, axis = pyplot().subplots(figsize=(max(8, 0.9 * len(names)), 4.2), layout="constrained")
    width = 0.8 / len(parts)
    for i, (row, found) in enumerate(parts):
        values = [[table.scale * part[n] for part in found if n in part] for n in names]
        axis.bar(
            [x + (i - (len(parts) - 1) / 2) * width for x in range(len(names))],
            [statistics.mean(v) if v else 0.0 for v in values],
            width,
            yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in values],
            color=COLOURS[i % len(COLOURS)],
            error_kw={"elinewidth": 0.8},
            label=f"{' '.join(filter(None, (row.setting, row.name)))} (n={len(found)})",
        )
    axis.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=8)
    axis.set_ylabel(table.title.partition(": ")[2].partition(",")[0] or table.columns[table.metric])
    networks = ", ".join(dict.fromkeys(row.network for row, _ in parts))
    columns = min(len(parts), 6)
    lines = -(-len(parts) // columns)
    title = f"{sheet.of(parts[0][0])[0]['dataset']}, {networks}{sheet.whose}"
    axis.set_title(title, fontsize=10, pad=10 + 16 * lines)
    frameless(axis)
    axis.legend(
        frameon=False, fontsize=8, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    return save(figure, path)
