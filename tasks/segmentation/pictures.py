"""Pictures of a segmentation: a grid of examples, overlays, and the IoU of each class."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageDraw, ImageFont

from data.files import write_record
from data.segmentation.labels import CLASSES, COLOURS, IGNORE, colour_image, label_ids
from data.segmentation.sets import PlainImages
from tasks.engine.plotting import frameless, pyplot, save

__all__ = [
    "Example",
    "Row",
    "class_bars",
    "error_map",
    "grid",
    "log_examples",
    "overlay",
    "prediction_folder",
    "save_prediction",
    "sheet",
]

COLUMNS = ("image", "truth", "prediction", "error")
WRONG, RIGHT = (224, 60, 40), (214, 226, 232)
_TEXT = 16  # pixels of a line of text
_WIDTH = 384  # of a picture in the grid


class Example(NamedTuple):
    """An image with its truth and a prediction, uint8 (H, W, 3), (H, W) and (H, W)."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def overlay(image: np.ndarray, ids: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """The classes' colours laid over the image, uint8 (H, W, 3); ignored pixels show it bare."""
    mixed = (1 - strength) * image + strength * colour_image(ids)
    return np.where((ids == IGNORE)[..., None], image, mixed.round()).astype(np.uint8)


def error_map(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Wrong pixels red, right ones pale, ignored ones black; uint8 (H, W, 3)."""
    picture = np.where((truth == predicted)[..., None], RIGHT, WRONG).astype(np.uint8)
    picture[truth == IGNORE] = 0
    return picture


def grid(examples: Sequence[Example]) -> Image.Image:
    """One row an example: image, truth, prediction and error; the classes' colours below."""
    rows = [
        Row(
            e.name,
            (
                e.image,
                colour_image(e.truth),
                colour_image(e.predicted),
                error_map(e.truth, e.predicted),
            ),
        )
        for e in examples
    ]
    return sheet(COLUMNS, rows, [e.truth for e in examples])


class Row(NamedTuple):
    """Panels uint8 (H, W, 3) beside one another, and the name below them."""

    name: str
    panels: Sequence[np.ndarray]


def sheet(titles: Sequence[str], rows: Sequence[Row], truths: Sequence[np.ndarray]) -> Image.Image:
    """Rows of panels under titles, with the colours of the classes that the truths hold."""
    fitted = [[_fitted(panel) for panel in row.panels] for row in rows]
    shown = sorted({int(c) for truth in truths for c in np.unique(truth) if c != IGNORE})
    width = len(titles) * _WIDTH
    legend = _legend(shown, width)
    tall = sum(row[0].height + _TEXT for row in fitted)
    picture = Image.new("RGB", (width, _TEXT + tall + legend.height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=12)
    for i, title in enumerate(titles):
        draw.text((i * _WIDTH + 4, 1), title, "black", font)
    y = _TEXT
    for row, panels in zip(rows, fitted, strict=True):
        for i, panel in enumerate(panels):
            picture.paste(panel, (i * _WIDTH, y))
        draw.text((4, y + panels[0].height + 1), row.name, "black", font)
        y += panels[0].height + _TEXT
    picture.paste(legend, (0, y))
    return picture


def _fitted(panel: np.ndarray) -> Image.Image:
    image = Image.fromarray(panel)
    height = max(1, round(image.height * _WIDTH / image.width))
    # Box for large pictures, so that thin things stay; nearest for small ones, so pixels show.
    filtering = Image.Resampling.BOX if image.width > _WIDTH else Image.Resampling.NEAREST
    return image.resize((_WIDTH, height), filtering)


def _legend(classes: Sequence[int], width: int) -> Image.Image:
    each, line = 128, _TEXT + 4
    per_line = width // each
    lines = math.ceil(len(classes) / per_line)
    legend = Image.new("RGB", (width, lines * line + 4), "white")
    draw, font = ImageDraw.Draw(legend), ImageFont.load_default(size=12)
    for i, c in enumerate(classes):
        x, y = (i % per_line) * each + 4, (i // per_line) * line + 4
        draw.rectangle([x, y, x + 14, y + 12], fill=COLOURS[c], outline="black")
        draw.text((x + 19, y - 1), CLASSES[c], "black", font)
    return legend


def prediction_folder(
    base: Path,
    images: PlainImages,
    state: Mapping[str, torch.Tensor],
    *,
    checkpoint: str | Path | None,
    way: str,
) -> Path:
    """A folder below `base` for these weights, images and way of predicting: masks never mix.

    Args:
        base: folder of predictions.
        images: to predict.
        state: of the network.
        checkpoint: that it was loaded from, whose name is part of the folder's.
        way: what else decides the masks, in words.
    """
    digest = hashlib.sha256(f"{way}, {images.fingerprint()}".encode())
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    root, stem = images.root.resolve(), Path(checkpoint).stem if checkpoint else "weights"
    folder = base / f"{root.name}-{stem}-{digest.hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    of = {"images": str(root), "checkpoint": checkpoint and str(checkpoint), "way": way}
    rank_zero_only(write_record)(folder / "predictions.json", of)
    return folder


def save_prediction(folder: Path, name: str, image: np.ndarray, predicted: np.ndarray) -> None:
    """Write ids/, colour/ and overlay/<name>.png; the ids are Cityscapes' label ids."""
    pictures = {
        "ids": label_ids(predicted),
        "colour": colour_image(predicted),
        "overlay": overlay(image, predicted),
    }
    for kind, array in pictures.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


def log_examples(loggers: Iterable[Any], examples: Sequence[Example], step: int) -> None:
    """Give the examples to the loggers that take images, with masks of the classes."""
    names = dict(enumerate(CLASSES)) | {IGNORE: "ignored"}
    masks = [
        {
            kind: {"mask_data": ids, "class_labels": names}
            for kind, ids in (("truth", e.truth), ("prediction", e.predicted))
        }
        for e in examples
    ]
    for logger in loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(
                key="examples",
                images=[e.image for e in examples],
                caption=[e.name for e in examples],
                masks=masks,
                step=step,
            )


def class_bars(iou: Mapping[str, Sequence[float]], title: str, path: Path) -> Path:
    """Bars of each class's IoU, one colour a domain; absent classes have none.

    Args:
        iou: 19 values in [0, 1] or NaN for each domain.
        title: of the figure.
        path: of the PNG to write.
    """
    present = [c for c in range(len(CLASSES)) if any(not math.isnan(v[c]) for v in iou.values())]
    figure, axis = pyplot().subplots(figsize=(10, 4), layout="constrained")
    width = 0.8 / len(iou)
    for i, (domain, values) in enumerate(iou.items()):
        heights = [0 if math.isnan(values[c]) else 100 * values[c] for c in present]
        mean = 100 * torch.tensor(list(values)).nanmean().item()
        places = [x + (i - (len(iou) - 1) / 2) * width for x in range(len(present))]
        colour = ("#56B4E9", "#D55E00")[i % 2]
        axis.bar(places, heights, width, color=colour, label=f"{domain}: mIoU {mean:.1f}")
    axis.set_xticks(range(len(present)), [CLASSES[c] for c in present], rotation=35, ha="right")
    axis.set_ylabel("IoU in %")
    axis.set_title(title, fontsize=10)
    frameless(axis)
    axis.legend(frameon=False)
    return save(figure, path)
