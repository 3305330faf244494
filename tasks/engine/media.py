"""Tables and pictures of a test for the loggers that take them; others are passed by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.engine.plotting import pyplot

__all__ = [
    "log_matrix",
]

Matrix = Mapping[str, Mapping[str, float]]


def log_matrix(
    loggers: Iterable[Any], key: str, matrix: Matrix, *, corner: str = "", title: str = ""
) -> None:
    """Log named rows and columns as the table `key` and as the picture ``<key>_picture``.

    Args:
        loggers: of the trainer.
        key: ``split/name``.
        matrix: values by row and column; a row may lack columns, and NaN is no value.
        corner: what the rows are.
        title: of the picture.
    """
    taking = [logger for logger in loggers if hasattr(logger, "log_table")]
    if not taking or not matrix:
        return
    columns = sorted({c for row in matrix.values() for c in row}, key=lambda c: (c == "mean", c))
    data = [[name, *(_value(row.get(c)) for c in columns)] for name, row in matrix.items()]
    picture = _heat_map(list(matrix), columns, [line[1:] for line in data], title or key)
    for logger in taking:
        logger.log_table(key=key, columns=[corner or key, *columns], data=data)
        logger.log_image(key=f"{key}_picture", images=[picture])


def _value(found: float | None) -> float | None:
    """None for NaN, which JSON, as tables are stored in, does not have."""
    return None if found is None or math.isnan(found) else found


def _heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[Any]], title: str
) -> Any:
    """An image of coloured cells, each with its value; uint8 (H, W, 3)."""
    import numpy as np

    cells = np.array([[np.nan if v is None else v for v in row] for row in values], float)
    size = (1.6 + 0.75 * len(columns), 1.0 + 0.3 * len(rows))
    figure, axis = pyplot().subplots(figsize=size, layout="constrained")
    axis.imshow(cells, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), [c.removeprefix("severity ") for c in columns], fontsize=8)
    axis.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows], fontsize=8)
    low, high = np.nanmin(cells), np.nanmax(cells)
    for (i, j), value in np.ndenumerate(cells):
        if not np.isnan(value):
            light = value < (low + high) / 2
            axis.text(
                j, i, f"{value:.3g}", ha="center", va="center", fontsize=7,
                color="white" if light else "black",
            )  # fmt: skip
    axis.set_title(title, fontsize=9)
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    pyplot().close(figure)
    return image
