"""Label image files read into training ids, and what a whole part of them must be.

A palette image has numbers (its indices) and colours. Tools that make PNGs smaller renumber the
indices and keep the colours, also of grey images, which they turn into palette images. So where the
two disagree, the colours decide; a palette whose colours mean nothing here leaves the indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import quoted
from data.files import UNREADABLE, open_image
from data.segmentation.labels import (
    COLOURS,
    IGNORE,
    LABELS,
    UNKNOWN,
    LabelError,
    LabelKind,
    lookup,
    train_ids,
)

__all__ = ["check_part", "label_size", "read_label"]

# Of Cityscapes' list, what only label ids reach: training ids end with 18.
_LABEL_IDS_ALONE = slice(19, 35)
# Ids that are not evaluated, and as training ids are: in label images that have none of the above,
# road, sidewalk and sky are rather these. Unlabelled pixels, 0, are in many sets.
_DOUBTFUL = [x.id for x in LABELS if 0 < x.id < 19 and x.train_id == IGNORE] + [IGNORE]


def label_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's head.

    Raises:
        LabelError: unreadable, or no PNG.
    """
    with _opened(path) as image:
        width, height = image.size
    return height, width


def read_label(path: Path, kind: LabelKind) -> np.ndarray:
    """Training ids, uint8 (H, W), of a label image file.

    An RGB file of `kind` "ids" is read as colours, and so is a palette whose colours contradict its
    indices.

    Raises:
        LabelError: unreadable, no PNG, of another mode than label images have, a palette that could
            mean two things, or unknown values.
    """
    values, kind = _values(path, kind)
    return _train_ids(path, values, kind)


def check_part(labels: Sequence[tuple[Path, LabelKind]], where: str) -> None:
    """Refuse a part without one labelled pixel, or of training ids that are named label ids.

    Both show in a part as a whole: a single image may well have few classes. Files are read until
    neither can be, which is after the first one nearly always.

    Args:
        labels: file and kind of each.
        where: what the part is called.

    Raises:
        LabelError: it is so, or a file that was looked at cannot be used.
    """
    seen, labelled = np.zeros(256, bool), False
    proven = all(named == "train_ids" for _, named in labels)
    for path, named in labels:
        values, kind = _values(path, named)
        labelled |= bool((_train_ids(path, values, kind) != IGNORE).any())
        if kind == "ids":
            seen[np.unique(values)] = True
        proven |= kind == "colours" or bool(seen[_LABEL_IDS_ALONE].any())
        if labelled and proven:
            return
    found = ", ".join(map(str, np.flatnonzero(seen)))
    held = f"hold {found} alone" if found else "have ignored ones alone"
    if not labelled:
        raise LabelError(
            f"Expected labelled pixels in {where}, but all {len(labels):,} label images {held}, "
            "which are not evaluated: a score would be of nothing. Labels of Cityscapes' test part "
            f"are such; give another part or root. {_IF_TRAINING_IDS}"
        )
    if seen[_DOUBTFUL].any():
        raise LabelError(
            f"Expected Cityscapes' label ids in {where}, but its {len(labels):,} label images "
            f"{held}, as training ids (0 to 18, 255 for none) do. {_IF_TRAINING_IDS}"
        )


_IF_TRAINING_IDS = (
    "If they are training ids, say so by the names: <name>_gtFine_labelTrainIds.png in Cityscapes' "
    "layout, the folder labels_mapped/ instead of labels/ in GTA5's."
)


def _opened(path: Path) -> Image.Image:
    """The image, of which the format is known; lossy ones change classes at every edge."""
    try:
        image = open_image(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    if image.format != "PNG":
        image.close()
        raise LabelError(
            f"Expected {path} to be a PNG, as label images are, but its content is "
            f"{image.format}, which may have changed classes: make the label images again from "
            "their source, or fetch them again."
        )
    return image


def _unreadable(path: Path, error: BaseException) -> LabelError:
    return LabelError(
        f"Expected {path} to be a label image, but it cannot be read ({quoted(error)}): delete it "
        "and fetch it again."
    )


def _values(path: Path, kind: LabelKind) -> tuple[np.ndarray, LabelKind]:
    """What a file holds, as :func:`train_ids` takes it, and of which kind that is."""
    with _opened(path) as image:
        try:
            image.load()
        except UNREADABLE as error:
            raise _unreadable(path, error) from error
        if image.mode in ("RGB", "RGBA") and kind != "train_ids":
            return np.asarray(image.convert("RGB")), "colours"
        if image.mode == "P":
            return _of_palette(path, image, kind)
        if image.mode == "1":  # what optimisers make of 0 and 255
            image = image.convert("L")
        if image.mode not in ("L", "I", "I;16"):
            raise LabelError(
                f"Expected {path} to be a label image of one channel"
                f"{'' if kind == 'train_ids' else ' or RGB colours'}, but got mode {image.mode}: "
                "it may be a photograph in the labels' folder."
            )
        return np.asarray(image), kind


def _train_ids(path: Path, values: np.ndarray, kind: LabelKind) -> np.ndarray:
    try:
        return train_ids(values, kind)
    except LabelError as error:
        raise LabelError(
            f"Expected {path} to hold {error}. Give labels that are mapped to Cityscapes' ids."
        ) from None


# --------------------------------------------------------------------------------------- palettes


def _of_palette(path: Path, image: Image.Image, kind: LabelKind) -> tuple[np.ndarray, LabelKind]:
    """See the module's docstring; numbers in use alone count."""
    indices = np.asarray(image)
    stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(stored)] = stored
    used = np.flatnonzero(image.histogram())
    numbers, colours = used.astype(np.uint8), palette[used]
    by_number, by_colour = lookup(numbers, kind), lookup(colours, "colours")
    different = len(np.unique(colours, axis=0)) == len(used)
    if (stored == stored[:, :1]).all() and different:  # greys: the levels are the numbers
        by_level = lookup(colours[:, 0], kind)
        two = (by_colour != UNKNOWN).all() and (by_colour != by_level).any()
        if (by_level != UNKNOWN).all():
            if two and (colours[:, 0] != numbers).any():
                raise _unclear(path)
            return palette[:, 0][indices], kind
    # Black is no class's and fills up palettes; a few classes share their colour with another.
    own = (colours == _own_colours(kind)[used]).all(1) | ~colours.any(1)
    if not (~own & (by_colour != UNKNOWN) & (by_colour != by_number)).any():
        return indices, kind
    if not _of_classes(colours):
        return indices, kind  # a colour map of something else, which a class's colour is in too
    if not _of_classes(stored) or (kind == "train_ids" and _in_order(stored)):
        raise _unclear(path)
    return palette[indices], "colours"


def _own_colours(kind: LabelKind) -> np.ndarray:
    """The colour of each number, (256, 3)."""
    own = np.zeros((256, 3), np.uint8)
    if kind == "train_ids":
        own[: len(COLOURS)] = COLOURS
        return own
    for label in LABELS:
        # Licence plates have the id -1, and in GTA5 the index 34.
        own[label.id if label.id >= 0 else 34] = label.colour
    return own


def _of_classes(palette: np.ndarray) -> bool:
    """Whether most colours, black apart, are those of Cityscapes' labels."""
    colours = np.unique(palette[palette.any(1)], axis=0)
    return 2 * int((lookup(colours, "colours") != UNKNOWN).sum()) >= len(colours)


def _in_order(stored: np.ndarray) -> bool:
    """Whether a palette gives label ids their colours, as none does by chance."""
    return np.array_equal(stored[:34], _own_colours("ids")[:34])


def _unclear(path: Path) -> LabelError:
    return LabelError(
        f"Expected the palette of {path} to have Cityscapes' colour for each of its numbers, but "
        "colours and numbers disagree, and neither is clear: save the labels as PNGs of one "
        "channel that holds the ids, without a palette."
    )
