"""The figures of ``python -m tasks.visualize``; each function draws one and saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tasks.engine.plotting import COLOURS, frameless, pyplot, save
from tasks.visualize.features import Exchange
from tasks.visualize.shift import Distances

__all__ = ["distances_figure", "exchange_figure", "features_figure", "gates_figure"]

CHANNELS = {"red": "#D55E00", "green": "#009E73", "blue": "#0072B2"}
MOST_SITES = 4  # of the gates' figure
NAMES = {"gaussian_noise": "noise", "defocus_blur": "blur", "jpeg_compression": "jpeg"}


def _pixels(image: Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1] of (1, 3, H, W)."""
    return image[0].clamp(0, 1).permute(1, 2, 0).numpy()


def exchange_figure(
    first: Tensor, second: Tensor, swapped: tuple[Tensor, Tensor], names: Sequence[str], path: Path
) -> Path:
    """Two images and what they become with each other's statistics, with their histograms."""
    figure, axes = pyplot().subplots(
        2, 4, figsize=(9.2, 3.3), height_ratios=(2.1, 1), layout="constrained"
    )
    a, b = names
    titles = (a, b, f"{a},\nstatistics of {b}", f"{b},\nstatistics of {a}")
    images = (first, second, *swapped)
    for number, (title, image) in enumerate(zip(titles, images, strict=True)):
        above, below = axes[:, number]
        above.imshow(_pixels(image))
        above.set_title(title, fontsize=9)
        above.axis("off")
        for channel, (name, colour) in enumerate(CHANNELS.items()):
            values = image[0, channel].flatten().numpy()
            counts, edges = np.histogram(values, bins=60, range=(-0.25, 1.25), density=True)
            middles = (edges[1:] + edges[:-1]) / 2
            below.plot(middles, counts, color=colour, linewidth=1, label=name)
            below.axvline(values.mean(), color=colour, linewidth=0.8, linestyle=":")
        below.set_yticks([])
        below.set_xlim(-0.25, 1.25)
        below.set_xticks([0, 0.5, 1], ["0", "", "1"], fontsize=7)
        below.spines[["top", "right", "left"]].set_visible(False)
    axes[1, 0].set_ylabel("red, green, blue\n(dotted: means)", fontsize=7)
    save(figure, path, dpi=110)
    _palette(path)
    return path


def _palette(path: Path) -> None:
    """Half the bytes: 256 colours, dithered."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    # Dithering needs the palette to be there first.
    palette = image.quantize(256, method=Image.Quantize.MEDIANCUT)
    dithered = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    dithered.save(path, optimize=True)


def features_figure(
    images: Tensor,
    exchange: Exchange,
    decoded: Tensor,
    names: Sequence[str],
    title: str,
    path: Path,
    *,
    channels: int = 6,
) -> Path:
    """Content, style, and the content with the style's statistics: an image and some channels each.

    Shown are the channels whose mean or standard deviation changes most.
    """
    before, after = exchange.before, exchange.after
    change = _relative_change(before[0], after[0])
    chosen = change.argsort(descending=True)[:channels].tolist()
    figure, axes = pyplot().subplots(
        3, 1 + len(chosen), figsize=(1.5 * (1 + len(chosen)), 5.4), layout="constrained"
    )
    rows = (
        (f"content:\n{names[0]}", images[:1].float() / 255, before[0]),
        (f"style:\n{names[1]}", images[1:].float() / 255, before[1]),
        ("content with\nthe style's statistics\n(image decoded)", decoded / 255, after[0]),
    )
    for row, (label, image, maps) in zip(axes, rows, strict=True):
        row[0].imshow(_pixels(image), interpolation="nearest")
        row[0].set_ylabel(label, fontsize=8)
        for axis, channel in zip(row[1:], chosen, strict=True):
            shown = maps[channel].numpy()
            every = np.stack([m[channel].numpy() for _, _, m in rows])
            axis.imshow(
                shown, cmap="viridis", vmin=every.min(), vmax=every.max(), interpolation="nearest"
            )
            axis.set_xlabel(f"μ {shown.mean():.2f}  σ {shown.std(ddof=1):.2f}", fontsize=7)
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    axes[0, 0].set_title("image", fontsize=8)
    for axis, channel in zip(axes[0, 1:], chosen, strict=True):
        axis.set_title(f"channel {channel}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    return save(figure, path, dpi=130)


def _relative_change(before: Tensor, after: Tensor) -> Tensor:
    """By channel of (C, H, W): change of mean and standard deviation over the latter before."""
    flat, other = before.flatten(1), after.flatten(1)
    spread = flat.std(1).clamp(min=1e-3 * flat.std().item())
    return ((other.mean(1) - flat.mean(1)).abs() + (other.std(1) - flat.std(1)).abs()) / spread


def distances_figure(
    found: Mapping[str, Mapping[str, Distances]], with_selfnorm: set[str], title: str, path: Path
) -> Path:
    """Distances over the layers: a column a corruption, a row a statistic, a colour a network.

    Args:
        found: by network and corruption.
        with_selfnorm: the networks whose sites have a SelfNorm: they have two lines.
        title: of the figure.
        path: file to write.
    """
    corruptions = list(next(iter(found.values())))
    figure, axes = pyplot().subplots(
        2, len(corruptions), figsize=(2.1 * len(corruptions) + 1, 4.6), layout="constrained",
        sharex=True, squeeze=False,
    )  # fmt: skip
    for column, corruption in enumerate(corruptions):
        for row, statistic in enumerate(("means", "standard deviations")):
            axis = axes[row, column]
            for number, (name, distances) in enumerate(found.items()):
                own = distances[corruption]
                layers = range(1, len(own.before) + 1)
                before, after = ([pair[row] for pair in side] for side in own)
                options = {"color": COLOURS[number % len(COLOURS)], "markersize": 4}
                if name in with_selfnorm:
                    axis.plot(layers, before, "o:", markerfacecolor="white",
                              label=f"{name}, before SelfNorm", **options)  # fmt: skip
                    axis.plot(layers, after, "o-", label=f"{name}, after SelfNorm", **options)
                else:
                    axis.plot(layers, before, "s-", label=name, **options)
            axis.set_ylim(bottom=0)
            axis.tick_params(labelsize=7)
            frameless(axis)
            if row == 0:
                axis.set_title(NAMES.get(corruption, corruption.replace("_", " ")), fontsize=9)
            else:
                axis.set_xlabel("block", fontsize=8)
                axis.xaxis.get_major_locator().set_params(integer=True)
            if column == 0:
                axis.set_ylabel(f"distance of {statistic}", fontsize=8)
    figure.suptitle(title, fontsize=9)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return save(figure, path, dpi=130)


def gates_figure(gates: Mapping[str, Mapping[str, Tensor]], title: str, path: Path) -> Path:
    """SelfNorm's gates: their spread by condition, and each channel's mean, at some sites.

    Args:
        gates: (N, C) by condition and site; the first condition is the clean one.
        title: of the figure.
        path: file to write.
    """
    conditions = list(gates)
    every = list(gates[conditions[0]])
    places = np.linspace(0, len(every) - 1, min(MOST_SITES, len(every))).round().astype(int)
    sites = [every[place] for place in places]
    figure, axes = pyplot().subplots(
        2, len(sites), figsize=(3.4 * len(sites), 5.2), layout="constrained", squeeze=False
    )
    labels = [NAMES.get(c, c.replace("_", " ")) for c in conditions]
    image: Any = None
    for (above, below), place, site in zip(axes.T, places, sites, strict=True):
        values = [gates[c][site] for c in conditions]
        drawn = above.violinplot(
            [v.flatten().numpy()[:: max(1, v.numel() // 4000)] for v in values],
            showextrema=False, showmedians=True, widths=0.85,
        )  # fmt: skip
        for number, body in enumerate(drawn["bodies"]):
            body.set_facecolor(COLOURS[5] if number == 0 else COLOURS[1])
            body.set_alpha(0.6)
        drawn["cmedians"].set_color("black")
        above.set_xticks(range(1, len(labels) + 1), labels, fontsize=7, rotation=45, ha="right")
        above.set_ylim(0, 1)
        above.set_title(f"SelfNorm {place + 1}: {values[0].shape[1]} channels", fontsize=9)
        above.tick_params(axis="y", labelsize=7)
        frameless(above)
        order = values[0].mean(0).argsort()
        means = np.stack([v.mean(0)[order].numpy() for v in values])
        image = below.imshow(means, aspect="auto", cmap="viridis", vmin=0, vmax=1,
                             interpolation="nearest")  # fmt: skip
        below.set_yticks(range(len(labels)), labels, fontsize=7)
        below.set_xlabel("channel, by its clean gate", fontsize=8)
        below.tick_params(axis="x", labelsize=7)
    axes[0, 0].set_ylabel("gate of a channel of an image", fontsize=8)
    bar = figure.colorbar(image, ax=axes[1], shrink=0.9, pad=0.01)
    bar.set_label("mean gate", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=9)
    return save(figure, path, dpi=130)
