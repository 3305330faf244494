"""Figures made from result records."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tasks.engine.plotting import COLOURS
from tasks.tables.render import breakdown_of
from tasks.tables.spec import Table

__all__ = [
    "bars_by_part",
]


def bars_by_part(
    table: Table, runs: dict[str, list[dict[str, Any]]], path: Path, *, source: str = ""
) -> Path:
    """Bars of the metric by part and method; whiskers are one standard deviation over seeds.

    A part is a corruption, a class, or whatever a value of `table` is the mean of. `source` says in
    the title whose results they are.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in table.rows if any(breakdown_of(r) for r in runs.get(row.key, []))]
    parts = {row.key: [breakdown_of(r) for r in runs[row.key]] for row in rows}
    names = list(dict.fromkeys(n for found in parts.values() for part in found for n in part))
    figure, axis = plt.subplots(figsize=(max(8, 0.9 * len(names)), 4.2), layout="constrained")
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        found = parts[row.key]
        values = [[table.scale * part[n] for part in found if n in part] for n in names]
        axis.bar(
            [x + (i - (len(rows) - 1) / 2) * width for x in range(len(names))],
            [statistics.mean(v) if v else 0.0 for v in values],
            width,
            yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in values],
            color=COLOURS[i % len(COLOURS)],
            error_kw={"elinewidth": 0.8},
            label=f"{' '.join(filter(None, (row.setting, row.name)))} (n={len(found)})",
        )
    axis.set_xticks(range(len(names)), [n.replace("_", "\n") for n in names], fontsize=8)
    axis.set_ylabel(table.title.partition(": ")[2].partition(",")[0] or table.columns[table.metric])
    dataset = runs[rows[0].key][0]["dataset"]
    networks = ", ".join(dict.fromkeys(row.network for row in rows))
    columns = min(len(rows), 6)
    lines = -(-len(rows) // columns)
    axis.set_title(f"{dataset}, {networks}{source}", fontsize=10, pad=10 + 16 * lines)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        frameon=False, fontsize=8, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
