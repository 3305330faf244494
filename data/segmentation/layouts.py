"""Images with their label images, found in GTA5's or Cityscapes' layout.

    GTA5:        images/NNNNN.png, labels/NNNNN.png (or labels_mapped/), split.mat
    Cityscapes:  leftImg8bit/<split>/<city>/<name>_leftImg8bit.png,
                 gtFine/<split>/<city>/<name>_gtFine_labelIds.png (or _labelTrainIds.png)

Sources: Richter et al. 2016, https://arxiv.org/abs/1608.02192; Cordts et al. 2016,
https://arxiv.org/abs/1604.01685.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from data.errors import DataNotFoundError, listed, quoted
from data.files import UNREADABLE, is_hidden, open_image
from data.segmentation.label_files import label_size
from data.segmentation.labels import LabelKind
from data.segmentation.splits import Part, is_official, split_gta5

__all__ = ["Collection", "Layout", "Pair", "find_layout", "is_image", "open_collection"]

Layout = Literal["gta5", "cityscapes"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Of the published sets: height and width, and how many images.
GTA5_SIZE = (1052, 1914)
CITYSCAPES_SPLIT = {"train": 2975, "val": 500}
CITYSCAPES_SIZE = (1024, 2048)


class Pair(NamedTuple):
    """An image and its labels, of the same size in pixels."""

    name: str
    image: Path
    label: Path
    kind: LabelKind
    height: int
    width: int


@dataclass
class Collection:
    """The pairs of one root.

    Attributes:
        title: the published set's name if this is all of it, else None.
        parts: the pairs of "train" and "val", each sorted by name.
        left_out: names of pairs whose sizes differ, by part.
        notes: one sentence on each thing that a user should know.
    """

    root: Path
    layout: Layout
    title: str | None = None
    parts: dict[str, list[Pair]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fingerprint(self, parts: Sequence[Part] | None = None) -> str:
        """Of names and file sizes, which is quick also for 50 GB; 16 hexadecimal digits.

        Args:
            parts: that are meant; None means all.
        """
        digest = hashlib.sha256()
        for part in sorted(self.parts if parts is None else parts):
            for pair in self.parts[part]:
                sizes = pair.image.stat().st_size, pair.label.stat().st_size
                digest.update(f"{part} {pair.name} {sizes[0]} {sizes[1]}\n".encode())
        return digest.hexdigest()[:16]


def find_layout(root: Path) -> Layout | None:
    """Which layout `root` has; None for neither."""
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return "cityscapes"
    labels = ("labels", "labels_mapped")
    if (root / "images").is_dir() and any((root / name).is_dir() for name in labels):
        return "gta5"
    return None


def open_collection(root: Path, parts: Sequence[Part]) -> Collection:
    """Find the pairs of `parts` below `root`.

    GTA5's parts are those of split.mat, in the root or a folder in it. Without one, asking for
    "train" and "val" splits the images 80 to 20 by a fixed seed, and asking for "val" alone gives
    all of them.

    Raises:
        DataNotFoundError: no known layout, a part without images, or images without labels.
        ValueError: unreadable images, or no pair whose sizes agree.
    """
    layout = find_layout(root)
    if layout is None:
        raise DataNotFoundError(f"{root} has neither GTA5's nor Cityscapes' layout.")
    found = Collection(root, layout)
    pairs = _gta5(found, parts) if layout == "gta5" else _cityscapes(found, parts)
    for part in parts:
        if not pairs[part]:
            raise DataNotFoundError(
                f"Expected images of the {part} part in {root}, but found none: "
                "unpack the whole archive, or give another root."
            )
        _require_labels(pairs[part], root)
        found.parts[part], found.left_out[part] = _measured(pairs[part], root)
    _note_left_out(found)
    found.title = _title(found, parts)
    return found


Unmeasured = list[tuple[str, Path, Path, LabelKind]]


# ------------------------------------------------------------------------------------------- GTA5


def _gta5(found: Collection, parts: Sequence[Part]) -> dict[Part, Unmeasured]:
    root = found.root
    images = {path.stem: path for path in _images(root / "images")}
    mapped = not (root / "labels").is_dir()
    folder = root / ("labels_mapped" if mapped else "labels")
    kind: LabelKind = "train_ids" if mapped else "ids"
    chosen, notes = split_gta5(root, list(images), parts)
    found.notes += notes
    if is_official(root, chosen):
        found.title = "GTA5"
    return {
        part: [(name, images[name], folder / f"{name}.png", kind) for name in names]
        for part, names in chosen.items()
    }


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_image(path))


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


# ------------------------------------------------------------------------------------- Cityscapes


def _cityscapes(found: Collection, parts: Sequence[Part]) -> dict[Part, Unmeasured]:
    chosen: dict[Part, Unmeasured] = {}
    for part in parts:
        folder = found.root / "leftImg8bit" / part
        images = sorted(path for path in folder.glob("*/*_leftImg8bit.*") if is_image(path))
        chosen[part] = [_with_cityscapes_label(found.root, part, image) for image in images]
    if all(len(chosen[part]) == CITYSCAPES_SPLIT[part] for part in parts):
        found.title = "Cityscapes"
    return chosen


def _with_cityscapes_label(
    root: Path, part: Part, image: Path
) -> tuple[str, Path, Path, LabelKind]:
    city = image.parent.name
    name = image.stem.removesuffix("_leftImg8bit")
    stem = root / "gtFine" / part / city / f"{name}_gtFine_label"
    ids, train_ids = Path(f"{stem}Ids.png"), Path(f"{stem}TrainIds.png")
    if not ids.is_file() and train_ids.is_file():
        return name, image, train_ids, "train_ids"
    return name, image, ids, "ids"


# ----------------------------------------------------------------------------------- what is there


def _require_labels(pairs: Unmeasured, root: Path) -> None:
    missing = [str(label.relative_to(root)) for _, _, label, _ in pairs if not label.is_file()]
    if missing:
        raise DataNotFoundError(
            f"Expected a label image for each of {len(pairs):,} images in {root}, but "
            f"{len(missing):,} are missing: {listed(missing)}. Unpack the label archives too, or "
            "take the images without labels away."
        )


def _size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's head."""
    try:
        with open_image(path) as image:
            width, height = image.size
    except UNREADABLE as error:
        raise ValueError(
            f"Expected {path} to be an image, but it cannot be read ({quoted(error)}): delete it "
            "and fetch it again."
        ) from error
    return height, width


def _measured(pairs: Unmeasured, root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs whose sizes agree, and descriptions of the others."""
    kept, left_out = [], []
    for name, image, label, kind in pairs:
        size, other = _size(image), label_size(label)
        if size == other:
            kept.append(Pair(name, image, label, kind, *size))
        else:
            shape = "{1}x{0}".format
            left_out.append(f"{name} (image {shape(*size)}, labels {shape(*other)})")
    if not kept:
        raise ValueError(
            f"Expected label images of their images' sizes in {root}, but all {len(left_out):,} "
            f"differ: {listed(left_out)}. Resize images and labels together, with "
            "`python -m data.prepare resized`."
        )
    return kept, left_out


def _note_left_out(found: Collection) -> None:
    names = [name for part in found.left_out.values() for name in part]
    if names:
        found.notes.append(
            f"{len(names):,} image{'s' * (len(names) > 1)} in {found.root} whose labels are of "
            f"another size {'are' if len(names) > 1 else 'is'} left out: {listed(names)}."
        )


def _title(found: Collection, parts: Sequence[Part]) -> str | None:
    if found.title is None:
        return None
    published = GTA5_SIZE if found.layout == "gta5" else CITYSCAPES_SIZE
    sizes = Counter((pair.height, pair.width) for part in parts for pair in found.parts[part])
    # Most: a few of GTA5's frames are of other sizes.
    (height, width), _ = sizes.most_common(1)[0]
    if (height, width) == published:
        return found.title
    return f"{found.title} resized to {width}x{height}"
