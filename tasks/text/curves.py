"""`python -m tasks.text.curves imdb_sst2`: errors after each epoch, from the records of a table.

Draws <results>/<table>_curves.png: a line a method, the band is one standard deviation over seeds.
Writes <results>/<table>_epochs.md: every run at the epoch that the source's reviews alone choose.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from tasks.engine.plotting import COLOURS, frameless, pyplot, save
from tasks.engine.results import OWN, PUBLISHED
from tasks.tables.cells import markdown, spread
from tasks.tables.numbers import Sheet, sheets_of
from tasks.tables.spec import Row, Table

__all__ = ["draw_curves", "write_best_epochs"]

PANELS = {"error": "IMDb test", "sst2_error": "SST-2"}
KEYS = (*PANELS, "ece", "sst2_ece")
CHOSEN_BY = "error"  # of the source: the target chooses nothing


def draw_curves(table: Table, results: Path) -> Path:
    """The figure of the table's own data set.

    Raises:
        ValueError: there are no records of it with curves.
    """
    runs = _with_curves(table, results)
    figure, axes = pyplot().subplots(1, len(PANELS), figsize=(9, 3.6), layout="constrained")
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for colour, (row, records) in zip(COLOURS, runs, strict=False):
            points = _by_epoch(records, key)
            means = [statistics.mean(values) for values in points.values()]
            spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in points.values()]
            label = f"{row.name} (n={len(records)})"
            axis.plot(list(points), means, color=colour, marker="o", markersize=3, label=label)
            low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
            high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
            axis.fill_between(list(points), low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epochs")
        axis.set_xticks(list(points))
        frameless(axis)
    axes[0].set_ylabel("error in %")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(table.dataset, fontsize=10)
    return save(figure, results / f"{table.key}_curves.png")


def write_best_epochs(table: Table, results: Path) -> Path:
    """A table of every run's errors in % at the epoch with the fewest on the source's test set.

    The source's column, which chose the epoch, is therefore a little too good; the target's is not.

    Raises:
        ValueError: as `draw_curves`.
    """
    lines = [["network", "method", *PANELS.values(), "ECE", "SST-2 ECE", "epoch", "seeds"]]
    for row, records in _with_curves(table, results):
        points = [min(_points(record), key=lambda at: at[CHOSEN_BY]) for record in records]
        errors = [spread([100 * p[key] for p in points]) for key in KEYS]
        epochs = ", ".join(f"{point['epoch']:.0f}" for point in points)
        lines.append([row.network, row.name, *errors, epochs, str(len(points))])
    path = results / f"{table.key}_epochs.md"
    published = " --publish" if results == PUBLISHED else ""
    path.write_text(
        f"# {table.dataset}: errors in % at the epoch with the fewest on IMDb, lower is better\n\n"
        f"{markdown(lines)}\nThe runs of the table above, each at its own epoch (in the order of "
        "seeds). IMDb's test reviews chose it, so that their column flatters every row; SST-2 "
        f"chose nothing.\n\nMade by `python -m tasks.text.curves {table.key}{published}`.\n",
        encoding="utf-8",
    )
    return path


def _with_curves(table: Table, results: Path) -> list[tuple[Row, list[dict[str, Any]]]]:
    sheet = sheets_of(table, results).get(table.dataset, Sheet(table=table, dataset=table.dataset))
    found = [(row, [r for r in sheet.of(row) if _points(r)]) for row in table.rows]
    if not any(records for _, records in found):
        raise ValueError(f"Expected records of {table.key} with curves in {results}: run it first.")
    return [(row, records) for row, records in found if records]


def _points(record: dict[str, Any]) -> list[dict[str, float]]:
    """After each epoch that was evaluated on both sets."""
    return [point for point in record.get("history", []) if point.keys() >= set(KEYS)]


def _by_epoch(records: list[dict[str, Any]], key: str) -> dict[int, list[float]]:
    points: dict[int, list[float]] = {}
    for record in records:
        for point in _points(record):
            points.setdefault(int(point["epoch"]), []).append(100 * point[key])
    return dict(sorted(points.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="a file's name in configs/paper or configs/studies")
    parser.add_argument("--results", type=Path, default=OWN, help="folder of own results")
    parser.add_argument("--publish", action="store_true", help="of the published results instead")
    options = parser.parse_args()
    results = PUBLISHED if options.publish else options.results
    folders = (Path("configs/paper"), Path("configs/studies"))
    paths = [folder / f"{options.table}.yaml" for folder in folders]
    found = [path for path in paths if path.is_file()]
    if not found:
        parser.error(f"expected a table of the text task, but got {options.table!r}")
    try:
        table = Table.load(found[0])
        print(draw_curves(table, results))
        print(write_best_epochs(table, results))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
