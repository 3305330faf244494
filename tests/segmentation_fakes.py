"""Small segmentation sets in GTA5's and Cityscapes' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from data.segmentation.labels import LABELS

ROAD, SKY, CAR = 7, 23, 26


def street(seed: int, height: int = 24, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, 3) and label ids (H, W): sky, road, a car, and an unlabelled corner."""
    rng = np.random.default_rng(seed)
    ids = np.full((height, width), SKY, np.uint8)
    horizon = int(rng.integers(height // 3, height // 2 + 1))
    ids[horizon:] = ROAD
    left = int(rng.integers(0, width - 8))
    ids[horizon : horizon + 5, left : left + 8] = CAR
    ids[-3:, :3] = 0
    colours = {SKY: (90, 140, 220), ROAD: (110, 110, 110), CAR: (200, 40, 40), 0: (0, 0, 0)}
    image = np.zeros((height, width, 3))
    for value, colour in colours.items():
        image[ids == value] = colour
    image += rng.normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8), ids


def palette_image(ids: np.ndarray) -> Image.Image:
    """A palette PNG whose indices are the ids, as GTA5's labels are."""
    palette = np.zeros((256, 3), np.uint8)
    for label in LABELS:
        if label.id >= 0:
            palette[label.id] = label.colour
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    return image


def write_gta5(root: Path, n: int = 10, *, split: bool = True, **size: int) -> Path:
    """`n` images numbered from 1; with `split`, numbers 1 to n - 4 train, then 2 each."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(1, n + 1):
        image, ids = street(number, **size)
        Image.fromarray(image).save(root / "images" / f"{number:05d}.png")
        palette_image(ids).save(root / "labels" / f"{number:05d}.png")
    if split:
        write_split(root, range(1, n - 3), range(n - 3, n - 1), range(n - 1, n + 1))
    return root


def write_split(root: Path, train: range, val: range, test: range) -> None:
    parts = {"trainIds": train, "valIds": val, "testIds": test}
    columns = {name: np.array(list(numbers))[:, None] for name, numbers in parts.items()}
    savemat(root / "split.mat", columns)


def write_cityscapes(
    root: Path,
    n: int = 4,
    *,
    parts: tuple[str, ...] = ("val",),
    kind: str = "labelIds",
    **size: int,
) -> Path:
    """`n` images a part, in two cities."""
    table = {label.id: label.train_id for label in LABELS}
    for part in parts:
        for number in range(n):
            city = ("aachen", "bochum")[number % 2]
            image, ids = street(100 + number, **size)
            if kind == "labelTrainIds":
                ids = np.vectorize(table.get)(ids).astype(np.uint8)
            stem = f"{city}_{number:06d}_000019"
            images, labels = (root / f / part / city for f in ("leftImg8bit", "gtFine"))
            images.mkdir(parents=True, exist_ok=True)
            labels.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(images / f"{stem}_leftImg8bit.png")
            Image.fromarray(ids).save(labels / f"{stem}_gtFine_{kind}.png")
    return root
