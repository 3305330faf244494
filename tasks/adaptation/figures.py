"""Figures of domain adaptation: features in the plane, what is taken for what, worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks.engine.plotting import COLOURS, pyplot, save

__all__ = ["Panel", "confusion_figure", "mistakes_figure", "tsne_figure"]

DOMAIN_COLOURS = ("#E69F00", "#0072B2")
# Beyond this, numbers in the cells of a confusion matrix cannot be read.
NUMBERED = 15


class Panel(NamedTuple):
    """Features of one network, laid out in the plane.

    Attributes:
        title: of the network.
        points: (N, 2).
        is_target: bool (N,).
        labels: int (N,): true classes, which only colour the points.
    """

    title: str
    points: np.ndarray
    is_target: np.ndarray
    labels: np.ndarray


def _class_colours(n: int) -> list[Any]:
    if n <= len(COLOURS):
        # The palest of them last.
        return [*COLOURS[1:], COLOURS[0]][:n]
    return list(pyplot().get_cmap("nipy_spectral")(np.linspace(0.05, 0.95, n)))


def tsne_figure(
    panels: Sequence[Panel], classes: Sequence[str], domains: tuple[str, str], path: Path
) -> Path:
    """A row for each network: target points by class over grey source points, and all by domain."""
    colours = _class_colours(len(classes))
    columns = math.ceil(len(classes) / 16)
    figure, axes = pyplot().subplots(
        len(panels), 2, figsize=(9.5 + 1.6 * columns, 4.4 * len(panels)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (by_class, by_domain), panel in zip(axes, panels, strict=True):
        target, source = panel.is_target, ~panel.is_target
        by_class.scatter(*panel.points[source].T, s=6, color="#dddddd", linewidths=0)
        for number, name in enumerate(classes):
            own = panel.points[target & (panel.labels == number)]
            by_class.scatter(*own.T, s=12, color=colours[number], linewidths=0, label=name)
        for own, name, colour in zip((source, target), domains, DOMAIN_COLOURS, strict=True):
            by_domain.scatter(*panel.points[own].T, s=8, color=colour, linewidths=0, label=name)
        by_class.set_title(f"{panel.title}: {domains[1]} by class", fontsize=10)
        by_domain.set_title(f"{panel.title}: by domain", fontsize=10)
        for axis in (by_class, by_domain):
            axis.set_xticks([])
            axis.set_yticks([])
        by_domain.legend(fontsize=8, markerscale=2, loc="best")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8,
        markerscale=2, frameon=False, ncols=columns, title=f"{domains[1]} (grey: {domains[0]})",
        title_fontsize=8,
    )  # fmt: skip
    return save(figure, path, dpi=130)


def confusion_figure(
    counts: np.ndarray, classes: Sequence[str], title: str, path: Path
) -> Path:  # fmt: skip
    """Shares of each true class (rows) that were taken for each class (columns), in percent."""
    shares = 100 * counts / counts.sum(1, keepdims=True)
    side = max(4.5, 0.32 * len(classes) + 2.5)
    figure, axis = pyplot().subplots(figsize=(side + 1, side), layout="constrained")
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ticks = range(len(classes))
    axis.set_xticks(ticks, classes, rotation=90, fontsize=8)
    axis.set_yticks(ticks, classes, fontsize=8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=10)
    if len(classes) <= NUMBERED:
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 60 else "black"
            axis.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axis, label="% of the true class", shrink=0.8)
    return save(figure, path, dpi=130)


def mistakes_figure(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
    path: Path,
    *,
    columns: int = 6,
    rows: int = 4,
) -> Path:
    """The wrong predictions of highest confidence.

    Args:
        images: uint8 (N, H, W, 3).
        labels: int (N,), true classes.
        probabilities: (N, classes).
        classes: their names.
        title: heading.
        path: file to write.
        columns, rows: of the grid.
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: columns * rows]
    figure, axes = pyplot().subplots(
        rows, columns, figsize=(1.75 * columns, 2.1 * rows + 0.4), layout="constrained"
    )
    figure.suptitle(f"{title}: {len(wrong)} of {len(labels)} wrong, most confident first")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, worst, strict=False):
        axis.imshow(images[i], interpolation="nearest")
        truth, taken = classes[labels[i]], classes[predicted[i]]
        axis.set_title(f"{truth}\ntaken for {taken}, {100 * confidence[i]:.0f} %", fontsize=8)
    return save(figure, path, dpi=130)
