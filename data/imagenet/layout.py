"""Where ImageNet's and ImageNet-C's files lie, and what tells the published sets from others.

    <root>/train/<class>/<image>   <root>/val/<class>/<image>
    <corrupted>/<corruption>/<severity>/<class>/<image>

Sources: Russakovsky et al. 2015, https://image-net.org; Hendrycks & Dietterich 2019,
https://github.com/hendrycks/robustness
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import DataNotFoundError
from data.files import read_record

if TYPE_CHECKING:  # else `data.prepare` would wait for torch
    from data.imagenet.folders import FolderImages

__all__ = [
    "ALEXNET_ERRORS",
    "BY_HAND",
    "CLASSES",
    "FAMILIES",
    "RECORD",
    "Condition",
    "condition_folders",
    "corrupted_folder",
    "files_fingerprint",
    "is_published",
    "made_here",
    "missing_conditions",
    "part_of",
    "title_of",
]

# In a corrupted set that was made here: what it was made with.
RECORD = "corrupted.json"
# A corruption and its severity.
Condition = tuple[str, int]
CLASSES, TRAINING, VALIDATION = 1000, 1_281_167, 50_000
WORDNET = re.compile(r"n\d{8}")
VALIDATION_NAME = "ILSVRC2012_val_{:08d}.JPEG"

# Mean error of AlexNet over the five severities, by which ImageNet-C's mCE is normalised: table in
# ImageNet-C/test.py of https://github.com/hendrycks/robustness
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
# The published archives, which some people unpack each into a folder of its own.
FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}

BY_HAND = (
    "ImageNet asks for registration: log in at https://image-net.org/download-images, accept the "
    "terms and download ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz (ILSVRC 2012, tasks 1 and 2)"
)


def part_of(root: Path, name: str) -> Path:
    """The folder of a part, "train" or "val".

    Raises:
        DataNotFoundError: it is not there; the message says the layout and how to get the set.
    """
    folder = root / name
    if folder.is_dir():
        return folder
    raise DataNotFoundError(
        f"Expected {folder}, in ImageNet's layout {root}/{{train,val}}/<class>/<image>, but there "
        f"is no such folder. {BY_HAND}; then `python -m data.prepare imagenet --root {root}` "
        "unpacks them. To try the task on bundled data: `python -m tasks.classification fit "
        "--config configs/digits.yaml`."
    )


def corrupted_folder(root: Path, given: Path | None) -> Path:
    """The folder of the corrupted test set: `given`, or where it usually is.

    Raises:
        DataNotFoundError: it is in none of the places.
    """
    choices = (root / "ImageNet-C", root.parent / "ImageNet-C", root.with_name(root.name + "-C"))
    if given is not None:
        choices = (given, given, given)
    for folder in choices:
        if folder.is_dir():
            return folder
    raise DataNotFoundError(
        f"Expected the corrupted test set in {' or '.join(dict.fromkeys(map(str, choices)))}, as "
        "<corruption>/<severity>/<class>/<image>, but there is no such folder. Fetch it with "
        f"`python -m data.prepare imagenetc --root {root.parent}`, or give its folder by "
        "--data.corrupted; `--data.corruptions []` tests on clean images alone."
    )


def condition_folders(
    base: Path, corruptions: Sequence[str], severities: Sequence[int]
) -> dict[Condition, Path]:
    """The folder of each condition, which need not be there."""
    folders: dict[Condition, Path] = {}
    for name in corruptions:
        family = next(key for key, names in FAMILIES.items() if name in names)
        own = base / family / name
        parent = own if own.is_dir() else base / name
        folders |= {(name, severity): parent / str(severity) for severity in severities}
    return folders


def missing_conditions(folders: dict[Condition, Path], base: Path, root: Path) -> str:
    """What to say of conditions that are not there; "" where all are."""
    missing = [condition for condition, folder in folders.items() if not folder.is_dir()]
    if not missing:
        return ""
    names = dict.fromkeys(name for name, _ in folders)
    lacking = {name for name, _ in missing}
    each = [_named(name, missing, folders) for name in names if name in lacking]
    complete = ",".join(name for name in names if name not in lacking)
    alone = f", or test the complete ones alone by `--data.corruptions [{complete}]`"
    return (
        f"Expected {len(folders)} conditions in {base}, as <corruption>/<severity>/<class>/<image>"
        f", but {len(missing)} are missing: {', '.join(each)}. The mean over the rest could not be "
        f"compared with others': fetch the set with `python -m data.prepare imagenetc --root "
        f"{root.parent}`{alone if complete else ''} (the mean is then marked as partial)."
    )


def _named(name: str, missing: Sequence[Condition], folders: Iterable[Condition]) -> str:
    """A corruption, with the severities that are missing unless all are."""
    severities = [str(severity) for other, severity in missing if other == name]
    if len(severities) == sum(other == name for other, _ in folders):
        return name
    return f"{name} {'/'.join(severities)}"


def is_published(training: FolderImages | None, clean: FolderImages) -> bool:
    """Whether both have the number of images, and the names, that the published set has."""
    if (len(clean.classes), len(clean)) != (CLASSES, VALIDATION):
        return False
    if training is not None and len(training) != TRAINING:
        return False
    names = [VALIDATION_NAME.format(number).encode() for number in range(1, VALIDATION + 1)]
    named = all(WORDNET.fullmatch(name) for name in clean.classes)
    return named and np.array_equal(np.sort(clean.names), np.array(names))


def made_here(base: Path) -> dict[str, Any] | None:
    """What the corrupted set in `base` was made with, if `data.prepare` made it."""
    return read_record(base / RECORD)


def title_of(
    training: FolderImages | None,
    clean: FolderImages,
    corrupted: Sequence[FolderImages],
    made: bool,
    name: str | None = None,
) -> str:
    """The true name of the data: "ImageNet" for the whole published set alone.

    Args:
        training: the training images; None where a test does without.
        clean: the validation images, of the same classes.
        corrupted: those of each corrupted condition.
        made: whether the corruptions are of our own generator.
        name: of a set that is not ImageNet.
    """
    whole = all(images.same_files(clean) for images in corrupted)
    if whole and is_published(training, clean):
        return "ImageNet"
    if name is None:
        wordnet = all(WORDNET.fullmatch(own) for own in clean.classes)
        name = "imagenet-subset" if wordnet else "image-folder"
    n_train = 0 if training is None else len(training)
    counts = f"{len(clean.classes)} classes, {n_train}+{len(clean)} images"
    if (least := min(map(len, corrupted), default=len(clean))) != len(clean):
        counts += f", {least} a condition"
    own = ", corruptions made here" if made else ""
    return f"{name} ({counts}{own})"


def files_fingerprint(sets: Iterable[FolderImages]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the files' classes, names and sizes."""
    digest = hashlib.sha256()
    for images in sets:
        images.fingerprint(digest)
        digest.update(b"\0")
    return digest.hexdigest()[:16]
