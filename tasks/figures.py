"""Figures made from result records."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from tasks.tables import TableLike, _corruption_means

__all__ = ["errors_by_corruption"]

# Colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")


def errors_by_corruption(
    table: TableLike, runs: dict[str, list[dict[str, Any]]], path: Path
) -> Path:
    """Bars of the mean error by corruption and method; whiskers are one standard deviation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in table.rows if runs.get(f"{row.network}/{row.name}")]
    first = runs[f"{rows[0].network}/{rows[0].name}"][0]
    names = ["clean", *first["corruptions"]]
    figure, axis = plt.subplots(figsize=(max(8, 0.9 * len(names)), 4.2), layout="constrained")
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        records = runs[f"{row.network}/{row.name}"]
        values = [_corruption_means(records, name) for name in names]
        axis.bar(
            [x + (i - (len(rows) - 1) / 2) * width for x in range(len(names))],
            [statistics.mean(v) for v in values],
            width,
            yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in values],
            color=COLOURS[i % len(COLOURS)],
            error_kw={"elinewidth": 0.8},
            label=f"{row.name} (n={len(records)})",
        )
    labels = [name.replace("_", "\n") for name in names]
    axis.set_xticks(range(len(names)), labels, fontsize=8)
    axis.set_ylabel("error in %, mean over severities")
    axis.set_title(f"{first['dataset']}, {rows[0].network}", fontsize=10, pad=26)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        frameon=False, fontsize=8, ncols=len(rows), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
