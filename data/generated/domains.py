"""Three small generated domains that show the same six shapes, for a demonstration in minutes.

Place, size, turn and colour of a shape are drawn alike in all domains; they differ in

    plain       an even light background
    cluttered   a background of coloured patches
    dim         blur, little light that falls off to one side, a warm cast and noise

Every image is a function of (seed, domain, class, number).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data.domains.folders import MARKER
from data.files import only_one, read_record, replacing, require_writable, say

__all__ = ["CLASSES", "DOMAINS", "add_options", "draw", "make"]

CLASSES = ("cross", "disc", "ring", "square", "star", "triangle")
OVERSAMPLING = 4
PATCHES = 10
# A corner of `ImageDraw` coordinates.
Point = tuple[float, float]


def _polygon(radii: list[float]) -> Callable[[float, float, float, float], list[Point]]:
    """Corners at equal angles with the given radii, which repeat around the centre."""

    def corners(x: float, y: float, size: float, turn: float) -> list[Point]:
        angles = (turn + 2 * math.pi * i / len(radii) for i in range(len(radii)))
        return [
            (x + size * r * math.cos(a), y + size * r * math.sin(a))
            for r, a in zip(radii, angles, strict=True)
        ]

    return corners


def _cross(x: float, y: float, size: float, turn: float) -> list[Point]:
    arm, half = size, 0.3 * size
    outline = [(half, half), (half, arm), (-half, arm), (-half, half), (-arm, half), (-arm, -half)]
    outline += [(-a, -b) for a, b in outline]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in outline]


OUTLINES: dict[str, Callable[[float, float, float, float], list[Point]]] = {
    "cross": _cross,
    "disc": _polygon([0.9] * 48),
    "ring": _polygon([1.0] * 48),
    "square": _polygon([1.1] * 4),
    "star": _polygon([1.2, 0.45] * 5),
    "triangle": _polygon([1.2] * 3),
}


def _shape(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Coverage (size, size) in [0, 1] of a shape."""
    full = size * OVERSAMPLING
    radius = full * rng.uniform(0.2, 0.32)
    x, y = rng.uniform(0.36, 0.64, 2) * full
    turn = rng.uniform(0, 2 * math.pi)
    mask = Image.new("L", (full, full))
    pen = ImageDraw.Draw(mask)
    pen.polygon(OUTLINES[name](x, y, radius, turn), fill=255)
    if name == "ring":
        pen.polygon(OUTLINES[name](x, y, 0.55 * radius, turn), fill=0)
    return np.asarray(mask.reduce(OVERSAMPLING), dtype=np.float64) / 255


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A saturated colour that is neither light nor dark: (3,) in [0, 1]."""
    hue = rng.uniform(0, 2 * math.pi) + np.arange(3) * 2 * math.pi / 3
    return 0.45 + 0.35 * np.cos(hue)


def _plain(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(rng.uniform(0.6, 0.97, 3), (size, size, 3))


def _cluttered(size: int, rng: np.random.Generator) -> np.ndarray:
    image = _plain(size, rng).copy()
    for _ in range(PATCHES):
        height, width = rng.integers(size // 10, size // 4, 2)
        top, left = rng.integers(0, size, 2) - np.array([height, width]) // 2
        part = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
        image[part] = rng.uniform(0.2, 0.95, 3)
    return image


def _dimmed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = len(image)
    blurred = ndimage.gaussian_filter(image, (rng.uniform(0.008, 0.02) * size,) * 2 + (0,))
    turn = rng.uniform(0, 2 * math.pi)
    side = np.linspace(-1, 1, size)
    slope = side[:, None] * math.sin(turn) + side[None, :] * math.cos(turn)
    light = rng.uniform(0.55, 0.8) * (1 + 0.45 * slope)[..., None]
    cast = np.array([1.15, 0.95, 0.7])
    return blurred * light * cast + rng.normal(0, 0.02, image.shape)


DOMAINS = ("plain", "cluttered", "dim")


def draw(domain: str, name: str, number: int, *, size: int, seed: int) -> np.ndarray:
    """One image, uint8 (size, size, 3)."""
    # It needs torch, which the command line does without.
    from data.randomness import derive_seed

    rng = np.random.default_rng(derive_seed(seed, domain, name, number))
    coverage = _shape(name, size, rng)[..., None]
    background = (_cluttered if domain == "cluttered" else _plain)(size, rng)
    image = coverage * _colour(rng) + (1 - coverage) * background
    if domain == "dim":
        image = _dimmed(image, rng)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m data.prepare domains``."""
    parser.add_argument("--images", type=int, default=60, help="of each class and domain (60)")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")


def make(options: argparse.Namespace) -> None:
    """Write ``<root>/<domain>/images/<class>/*.png``; the root appears when all of it is there.

    Raises:
        ValueError: an option out of range, or a root that holds something else.
    """
    for option, least in (("images", 1), ("size", 16), ("seed", 0)):
        value = getattr(options, option)
        if value < least:
            raise ValueError(f"Expected `--{option}` to be at least {least}, but got {value}.")
    root: Path = options.root
    require_writable(root.parent, "choose another --root")
    with only_one(root.with_name(f".{root.name}.lock")):
        _make(root, images=options.images, size=options.size, seed=options.seed)


def _make(root: Path, *, images: int, size: int, seed: int) -> None:
    what = {"title": "generated domains", "images_of_a_class": images, "size": size, "seed": seed}
    if read_record(root / MARKER) == what:
        say(f"The generated domains are complete in {root}: nothing to do.")
        return
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(
            f"Expected --root to be a new or empty folder, but {root} holds something else: "
            "choose another one."
        )
    with replacing(root) as part:
        for domain in DOMAINS:
            for name in CLASSES:
                folder = part / domain / "images" / name
                folder.mkdir(parents=True)
                for number in range(images):
                    image = draw(domain, name, number, size=size, seed=seed)
                    Image.fromarray(image).save(folder / f"{number:04d}.png")
        (part / MARKER).write_text(json.dumps(what, indent=1) + "\n")
    total = len(DOMAINS) * len(CLASSES) * images
    say(f"Done: {total} images of {len(CLASSES)} classes in {', '.join(DOMAINS)} in {root}")
