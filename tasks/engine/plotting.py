"""What all figures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["COLOURS", "frameless", "pyplot", "save"]

# Colours that stay apart for colour-blind readers (Okabe & Ito 2008), then others.
COLOURS = (
    "#999999",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#0072B2",
    "#D55E00",
    "#F0E442",
    "#000000",
    "#8C6D46",
)


def pyplot() -> Any:
    """Matplotlib's, which opens no window; imported where something is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path, *, dpi: int = 150) -> Path:
    """Write a figure, in a folder that is made where it is missing, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    pyplot().close(figure)
    return path


def frameless(axis: Any) -> None:
    """Without the frame's upper and right side."""
    axis.spines[["top", "right"]].set_visible(False)
