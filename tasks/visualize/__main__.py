"""`python -m tasks.visualize --out DIR`: figures of what the two layers do.

    python -m tasks.visualize --out pictures                          # bundled images and digits
    python -m tasks.visualize --out pictures --images A.jpg B.jpg     # the first one on your own
    python -m tasks.visualize --out pictures --ckpt_path RUN/checkpoints/last.ckpt ...

exchange   two images with exchanged RGB means and standard deviations (CrossNorm at the image)
features   CrossNorm inside a network: feature maps before and after, and an image decoded from them
distances  how far corruption moves each layer's statistics, before and after SelfNorm
gates      SelfNorm's gates on clean and corrupted images

The last three look at trained classifiers with the test images of their data. Without --ckpt_path
these are the quickstart's on bundled digits, trained first where --runs does not hold them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tasks.visualize.exchange import bundled_photographs, exchanged, read_photograph
from tasks.visualize.features import decode, exchange_at
from tasks.visualize.figures import (
    distances_figure,
    exchange_figure,
    features_figure,
    gates_figure,
)
from tasks.visualize.shift import distances_of, gates_of, statistics_of
from tasks.visualize.trained import Trained, load_all, train_on_digits

FIGURES = ("exchange", "features", "distances", "gates")


def draw_exchange(images: Sequence[Path], out: Path) -> str:
    """The first figure; returns what it shows."""
    if images:
        first, second = (read_photograph(path) for path in images)
        names = [path.stem for path in images]
    else:
        (first, second), names = bundled_photographs(), ["temple", "flower"]
    swapped = exchanged(first, second)
    path = exchange_figure(first, second, swapped, names, out / "exchange.png")
    text = (
        "each image with the other's RGB means and standard deviations; the shapes stay, the style"
    )
    return f"{path}: {text} goes over. Below: their histograms, which go over too."


def draw_features(trained: Trained, severity: int, out: Path) -> str:
    """The second figure: the content is a clean image, the style a corrupted other one."""
    conditions = trained.conditions(severity)
    corruption = next((c for c in ("contrast", "fog") if c in conditions), list(conditions)[-1])
    # Another image, so that what is taken over can only be its statistics.
    images = torch.cat([trained.images(0, 1), trained.images(conditions[corruption], 2)[1:]])
    site = next(iter(trained.sites))
    exchange = exchange_at(trained, site, images)
    decoded, left = decode(trained, site, exchange.after[:1], images[:1])
    names = ("clean", f"another image,\n{corruption} {severity}")
    title = f"CrossNorm at the first site of {trained.name}; decoding leaves {100 * left:.0f} %"
    title += " of the distance in features"
    path = features_figure(images, exchange, decoded, names, title, out / "features.png")
    text = "channels of a clean image (content) and of another, corrupted one (style), and the"
    return f"{path}: {text} content's with the style's means and standard deviations."


def draw_distances(networks: Sequence[Trained], severity: int, limit: int, out: Path) -> str:
    """The third figure."""
    found = {}
    for trained in networks:
        conditions = trained.conditions(severity)
        clean = statistics_of(trained, trained.images(0, limit))
        found[trained.name] = {
            name: distances_of(clean, statistics_of(trained, trained.images(number, limit)))
            for name, number in conditions.items()
            if number
        }
    gated = {t.name for t in networks if any(s.selfnorm for s in t.sites.values())}
    n = len(networks[0].images(0, limit))
    title = f"Distance between clean and corrupted channel statistics (severity {severity}, {n} "
    title += "images);\n1: as far as clean images differ among each other"
    path = distances_figure(found, gated, title, out / "distances.png")
    lines = [f"{path}: how far corruption moves each layer's channel statistics. Means over all:"]
    for name, own in found.items():
        before = _mean([pair for d in own.values() for pair in d.before])
        after = _mean([pair for d in own.values() for pair in d.after])
        second = f", after SelfNorm {after:.2f}" if name in gated else ""
        lines.append(f"    {name}: {before:.2f}{second}")
    return "\n".join(lines)


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(m + s for m, s in pairs) / (2 * len(pairs))


def draw_gates(networks: Sequence[Trained], severity: int, limit: int, out: Path) -> str:
    """The fourth figure, of the first network with SelfNorm."""
    own = [t for t in networks if any(s.selfnorm for s in t.sites.values())]
    if not own:
        return "gates: left out, as none of these networks has a SelfNorm."
    trained = own[0]
    conditions = trained.conditions(severity)
    gates = {c: gates_of(trained, trained.images(i, limit)) for c, i in conditions.items()}
    n = len(next(iter(gates["clean"].values())))
    title = f"SelfNorm's gates in {trained.name}, {n} test images, severity {severity}"
    path = gates_figure(gates, title, out / "gates.png")
    return f"{path}: SelfNorm's gates; above all of them, below each channel's mean."


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that no figure can be drawn with, before anything is trained."""
    if options.severity not in range(1, 6):
        raise ValueError(f"Expected `--severity` to be from 1 to 5, but got {options.severity}.")
    if options.limit < 2:
        raise ValueError(f"Expected `--limit` to be at least 2, but got {options.limit}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES, help="these alone")
    parser.add_argument("--images", type=Path, nargs=2, default=[], help="for the first figure")
    parser.add_argument(
        "--ckpt_path", type=Path, nargs="+", default=[], help="of runs of the classification task"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where digits are trained")
    parser.add_argument("--severity", type=int, default=3, help="of the corruptions (3)")
    parser.add_argument("--limit", type=int, default=500, help="test images of a condition (500)")
    options = parser.parse_args(arguments)
    try:
        check(options)
        if "exchange" in options.only:
            print(draw_exchange(options.images, options.out), flush=True)
        if set(options.only) == {"exchange"}:
            return 0
        paths = options.ckpt_path or train_on_digits(options.runs)
        networks = load_all(paths)
        common = (networks, options.severity, options.limit, options.out)
        if "features" in options.only:
            print(draw_features(networks[0], options.severity, options.out), flush=True)
        if "distances" in options.only:
            print(draw_distances(*common), flush=True)
        if "gates" in options.only:
            print(draw_gates(*common), flush=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
