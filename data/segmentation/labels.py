"""The label table of Cityscapes, and label images mapped to its 19 training ids.

Three kinds of label image are read: label ids (Cityscapes' gtFine_labelIds, GTA5's palette PNGs,
whose index is the Cityscapes id), training ids (gtFine_labelTrainIds, GTA5's labels_mapped), and
RGB images in Cityscapes' colours.

Source of the table: cityscapesscripts/helpers/labels.py of https://github.com/mcordts/cityscapesScripts
(Cordts et al. 2016, https://arxiv.org/abs/1604.01685). GTA5's mapping: Richter et al. 2016,
https://arxiv.org/abs/1608.02192.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import numpy as np

__all__ = [
    "CLASSES",
    "COLOURS",
    "IGNORE",
    "LABELS",
    "UNKNOWN",
    "Label",
    "LabelError",
    "LabelKind",
    "colour_image",
    "label_ids",
    "lookup",
    "train_ids",
]

IGNORE = 255
UNKNOWN = 254  # in the look-up tables; no training id
_LISTED = 5

LabelKind = Literal["ids", "train_ids", "colours"]


class LabelError(ValueError):
    """A label image that cannot be used."""


class Label(NamedTuple):
    """One line of the table; `train_id` is IGNORE where a class is not evaluated."""

    name: str
    id: int
    train_id: int
    colour: tuple[int, int, int]


LABELS: tuple[Label, ...] = (
    Label("unlabeled", 0, IGNORE, (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, (0, 0, 0)),
    Label("rectification border", 2, IGNORE, (0, 0, 0)),
    Label("out of roi", 3, IGNORE, (0, 0, 0)),
    Label("static", 4, IGNORE, (0, 0, 0)),
    Label("dynamic", 5, IGNORE, (111, 74, 0)),
    Label("ground", 6, IGNORE, (81, 0, 81)),
    Label("road", 7, 0, (128, 64, 128)),
    Label("sidewalk", 8, 1, (244, 35, 232)),
    Label("parking", 9, IGNORE, (250, 170, 160)),
    Label("rail track", 10, IGNORE, (230, 150, 140)),
    Label("building", 11, 2, (70, 70, 70)),
    Label("wall", 12, 3, (102, 102, 156)),
    Label("fence", 13, 4, (190, 153, 153)),
    Label("guard rail", 14, IGNORE, (180, 165, 180)),
    Label("bridge", 15, IGNORE, (150, 100, 100)),
    Label("tunnel", 16, IGNORE, (150, 120, 90)),
    Label("pole", 17, 5, (153, 153, 153)),
    Label("polegroup", 18, IGNORE, (153, 153, 153)),
    Label("traffic light", 19, 6, (250, 170, 30)),
    Label("traffic sign", 20, 7, (220, 220, 0)),
    Label("vegetation", 21, 8, (107, 142, 35)),
    Label("terrain", 22, 9, (152, 251, 152)),
    Label("sky", 23, 10, (70, 130, 180)),
    Label("person", 24, 11, (220, 20, 60)),
    Label("rider", 25, 12, (255, 0, 0)),
    Label("car", 26, 13, (0, 0, 142)),
    Label("truck", 27, 14, (0, 0, 70)),
    Label("bus", 28, 15, (0, 60, 100)),
    Label("caravan", 29, IGNORE, (0, 0, 90)),
    Label("trailer", 30, IGNORE, (0, 0, 110)),
    Label("train", 31, 16, (0, 80, 100)),
    Label("motorcycle", 32, 17, (0, 0, 230)),
    Label("bicycle", 33, 18, (119, 11, 32)),
    Label("license plate", -1, IGNORE, (0, 0, 142)),
)

_EVALUATED = sorted((x for x in LABELS if x.train_id != IGNORE), key=lambda x: x.train_id)
CLASSES: tuple[str, ...] = tuple(label.name for label in _EVALUATED)
COLOURS: tuple[tuple[int, int, int], ...] = tuple(label.colour for label in _EVALUATED)

# Beside the table's own ids: -1 as a byte, and GTA5's index of licence plates.
_MORE_IGNORED_IDS = (255, 34)
# GTA5 paints `static` so; in the table it is black, as all that is unlabelled.
_MORE_IGNORED_COLOURS = ((20, 20, 20),)


def _id_table() -> np.ndarray:
    table = np.full(256, UNKNOWN, np.uint8)
    for label in LABELS:
        if label.id >= 0:
            table[label.id] = label.train_id
    table[list(_MORE_IGNORED_IDS)] = IGNORE
    return table


def _train_id_table() -> np.ndarray:
    table = np.full(256, UNKNOWN, np.uint8)
    table[: len(CLASSES)] = np.arange(len(CLASSES))
    table[IGNORE] = IGNORE
    return table


@cache
def _colour_table() -> np.ndarray:
    """Training id by colour, packed into 24 bits.

    Colours do not tell a licence plate from a car or a group of poles from a pole: the evaluated
    class is taken.
    """
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    ignored = [label.colour for label in LABELS if label.train_id == IGNORE]
    for colour in (*ignored, *_MORE_IGNORED_COLOURS):
        table[_packed(np.array(colour, np.uint8))] = IGNORE
    for train_id, colour in enumerate(COLOURS):
        table[_packed(np.array(colour, np.uint8))] = train_id
    return table


_TABLES = {"ids": _id_table(), "train_ids": _train_id_table()}


def _packed(colours: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) as 24-bit numbers (...)."""
    wide = colours.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def lookup(values: np.ndarray, kind: LabelKind) -> np.ndarray:
    """As :func:`train_ids`, with UNKNOWN for what the table does not know."""
    if kind == "colours":
        return _colour_table()[_packed(values)]
    if values.dtype == np.uint8:
        return _TABLES[kind][values]
    mapped = _TABLES[kind][values.clip(0, 255)]
    return np.where((values < 0) | (values > 255), np.uint8(UNKNOWN), mapped)


def train_ids(values: np.ndarray, kind: LabelKind) -> np.ndarray:
    """Training ids, uint8 (H, W), of a label image.

    Args:
        values: integers (H, W) of `kind` "ids" or "train_ids", or uint8 (H, W, 3) "colours".
        kind: what the values mean.

    Raises:
        LabelError: values that the table does not know, each counted and named.
    """
    mapped = lookup(values, kind)
    unknown = mapped == UNKNOWN
    if unknown.any():
        packed = _packed(values) if kind == "colours" else values
        raise LabelError(_unknown_values(packed[unknown], kind))
    return mapped


def _unknown_values(packed: np.ndarray, kind: LabelKind) -> str:
    found, counts = np.unique(packed, return_counts=True)
    order = counts.argsort()[::-1]
    named = [
        f"{_shown(int(found[i]), kind)} ({counts[i]:,} pixel{'' if counts[i] == 1 else 's'})"
        for i in order[:_LISTED]
    ]
    rest = f" and {len(found) - _LISTED} more values" if len(found) > _LISTED else ""
    expected = {
        "ids": "Cityscapes' label ids (0 to 34, or 255 for none)",
        "train_ids": "training ids (0 to 18, or 255 for none)",
        "colours": "Cityscapes' label colours",
    }[kind]
    return f"{expected}, but got {len(found)} unknown: {', '.join(named)}{rest}"


def _shown(value: int, kind: LabelKind) -> str:
    if kind != "colours":
        return str(value)
    return f"rgb({value >> 16}, {value >> 8 & 255}, {value & 255})"


def label_ids(predicted: np.ndarray) -> np.ndarray:
    """Label ids of training ids, uint8 in and out: what Cityscapes' evaluation server takes."""
    table = np.zeros(256, np.uint8)
    for label in _EVALUATED:
        table[label.train_id] = label.id
    return table[predicted]


def colour_image(ids: np.ndarray) -> np.ndarray:
    """Colours, uint8 (..., 3), of training ids, uint8 (...); ignored ones are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLOURS)] = COLOURS
    return table[ids]
