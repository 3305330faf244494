"""Images in one folder a class: listed, checked by name, and read one by one.

    <folder>/<class>/<image>

Classes are numbered in the order of their names, as torchvision's ImageFolder does, unless another
is asked for. Listing opens no image: ImageNet is 150 GB.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.errors import DataNotFoundError, SampleError, listed, quoted
from data.files import is_hidden, open_image, to_rgb
from data.loading import process_rank

__all__ = [
    "EXTENSIONS",
    "ClassOrder",
    "FolderImages",
    "check_classes",
    "drop_misplaced",
    "drop_unreadable",
    "list_images",
    "refuse_or_skip",
]

EXTENSIONS = (".jpeg", ".jpg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# WordNet's numbers, by which ImageNet names its classes and, before "_", its training images.
WORDNET = re.compile(rb"n\d{8}")
ClassOrder = Literal["name", "number"]
Bad = tuple[str, str]  # a file and what is wrong with it
Unreadable = tuple[int, str]  # an image and why


class FolderImages:
    """The images of a folder, ordered by class and name.

    Args:
        folder: that holds one folder a class.
        classes: their names, in the order of their numbers.
        labels: int64 (N,), of the images.
        names: bytes (N,), of the images' files in their classes' folders.
    """

    # Arrays, because a million strings would be copied into every reading process bit by bit.
    def __init__(
        self, folder: Path, classes: Sequence[str], labels: np.ndarray, names: np.ndarray
    ) -> None:
        self.folder = folder
        self.classes = tuple(classes)
        self.labels = labels
        self.names = names

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> str:
        """The file of an image."""
        name = os.fsdecode(self.names[position])
        return os.path.join(self.folder, self.classes[self.labels[position]], name)

    def below(self, position: int) -> str:
        """The file of an image as a path below the folder."""
        return f"{self.classes[self.labels[position]]}/{os.fsdecode(self.names[position])}"

    def read(self, position: int) -> Image.Image:
        """The image, decoded, in RGB.

        Raises:
            SampleError: the file cannot be read; the message names it.
        """
        try:
            with open_image(self.path(position)) as image:
                return to_rgb(image)
        except Exception as error:  # the decoders raise a dozen types at damaged files
            raise SampleError(
                f"Expected {self.path(position)} to be a whole image, but it could not be read "
                f"({quoted(error)}): replace or delete it. `--data.verify true` names every such "
                "file before the run, `--data.skip_bad true` leaves them out."
            ) from error

    def unreadable(self, positions: Iterable[int]) -> list[Unreadable]:
        """Those of the images that cannot be decoded."""
        found = []
        for position in positions:
            try:
                self.read(position)
            except SampleError as error:
                reason = str(error.__cause__).replace(f" {self.path(position)!r}", "")
                found.append((int(position), reason))
        return found

    def without(self, positions: Sequence[int]) -> FolderImages:
        """The same without some of the images."""
        keep = np.ones(len(self), dtype=bool)
        keep[list(positions)] = False
        return FolderImages(self.folder, self.classes, self.labels[keep], self.names[keep])

    def same_files(self, other: FolderImages) -> bool:
        """Whether both hold files of the same names in the same classes."""
        return (
            self.classes == other.classes
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.names, other.names)
        )

    def fingerprint(self, digest: hashlib._Hash) -> None:
        """Add the files' classes, names and sizes to `digest`; no file is opened."""
        for position in range(len(self)):
            line = f"{self.below(position)}\0{os.path.getsize(self.path(position))}\n"
            digest.update(os.fsencode(line))


def _in_order(classes: Sequence[str], order: ClassOrder | None, folder: Path) -> list[str]:
    if order != "number":
        return sorted(classes)
    if other := [name for name in sorted(classes) if not name.isdecimal()]:
        raise ValueError(
            f"Expected the classes in {folder} to be numbers for `data.class_order` number, but "
            f"got {listed(other)}: leave it out."
        )
    return sorted(classes, key=int)


def list_images(
    folder: Path, *, skip_bad: bool = False, order: ClassOrder | None = None
) -> FolderImages:
    """The images below `folder`, which holds one folder a class.

    Hidden files are passed over. A file that is no image by its name, or whose name says that it
    belongs to another class (ImageNet's training images begin with their class), is refused.

    Args:
        folder: to list.
        skip_bad: leave such files out, with a warning that counts and names them.
        order: of the classes; None is that of their names.

    Raises:
        DataNotFoundError: there is no such folder.
        ValueError: no classes, a class without images, or files that should not be there.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"Expected the folder {folder}, but there is none.")
    entries = sorted((e for e in os.scandir(folder) if not is_hidden(e.name)), key=lambda e: e.name)
    classes = _in_order([entry.name for entry in entries if entry.is_dir()], order, folder)
    if not classes:
        raise ValueError(
            f"Expected {folder} to hold one folder a class, but got {len(entries)} files and no "
            "folder: sort the images into folders of their classes."
        )
    bad: list[Bad] = [(entry.name, "no class's folder") for entry in entries if not entry.is_dir()]
    names: list[bytes] = []
    counts = []
    for name in classes:
        own, refused = _list_class(os.path.join(folder, name), os.fsencode(name))
        names += own
        counts.append(len(own))
        bad += [(f"{name}/{file}", reason) for file, reason in refused]
    refuse_or_skip(bad, len(names) + len(bad), folder, skip=skip_bad)
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise ValueError(
            f"Expected every class's folder in {folder} to hold images, but {listed(empty)} of "
            f"{len(classes)} hold none: delete those folders or fetch the set again."
        )
    labels = np.repeat(np.arange(len(classes)), counts)
    return FolderImages(folder, classes, labels, np.array(names))


def _list_class(folder: str, name: bytes) -> tuple[list[bytes], list[Bad]]:
    """Names of the images in a class's folder, sorted, and what should not be there."""
    images, bad = [], []
    numbered = WORDNET.fullmatch(name)
    for entry in sorted(os.scandir(os.fsencode(folder)), key=lambda entry: entry.name):
        file = entry.name
        if is_hidden(os.fsdecode(file)):
            continue
        other = WORDNET.match(file)
        if not _is_file(entry):
            bad.append((os.fsdecode(file), "a folder, a pipe or a broken link"))
        elif not os.fsdecode(file).lower().endswith(EXTENSIONS):
            bad.append((os.fsdecode(file), "no image by its name"))
        elif numbered and other and other.group() != name:
            bad.append((os.fsdecode(file), "of another class by its name"))
        else:
            images.append(file)
    return images, bad


def _is_file(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in circles
        return False


def refuse_or_skip(bad: Sequence[Bad], total: int, folder: Path, *, skip: bool) -> None:
    """A warning, where bad files are to be left out, or an error; nothing where there are none.

    Args:
        bad: path below `folder` and what is wrong with it.
        total: files looked at.
        folder: where they are.
        skip: warn only, where that leaves any.
    """
    if not bad:
        return
    named = listed([f"{path} ({reason})" for path, reason in bad])
    found = f"{len(bad)} of {total} files in {folder}"
    if skip and len(bad) < total:
        warnings.warn(f"{found} are left out: {named}.", stacklevel=2)
        return
    remedy = "Remove or replace them, or leave them out with `--data.skip_bad true`"
    if len(bad) == total:
        remedy = "None is left to use: fetch the set again, or give its folder by `--data.root`"
    raise ValueError(
        f"Expected images in {folder}, each in its class's folder, but {len(bad)} of {total} files "
        f"are not: {named}. {remedy}."
    )


def check_classes(found: Sequence[str], expected: Sequence[str], where: Path, of: Path) -> None:
    """Raise ValueError unless the classes in `where` are those in `of`."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        lacks = f" without {listed(missing)}" if missing else ""
        adds = f" with {listed(extra)} besides" if extra else ""
        raise ValueError(
            f"Expected the classes in {where} to be those in {of}, but got them{lacks}{adds}: "
            "labels would not fit. Give folders of the same classes."
        )


def drop_misplaced(images: FolderImages, of: FolderImages, *, skip: bool) -> FolderImages:
    """Refuse, or leave out, images that lie in another class than those of the same name in `of`.

    Where names in `of` repeat from class to class they say nothing, and all is well.
    """
    names, first = np.unique(of.names, return_index=True)
    if len(names) < len(of) or images.same_files(of):
        return images
    places = np.searchsorted(names, images.names).clip(max=len(names) - 1)
    right = of.labels[first][places]
    wrong = np.flatnonzero((names[places] == images.names) & (right != images.labels)).tolist()
    bad = [(images.below(p), f"of {of.classes[right[p]]} in {of.folder.name}") for p in wrong]
    refuse_or_skip(bad, len(images), images.folder, skip=skip)
    return images.without(wrong)


def drop_unreadable(images: FolderImages, *, skip: bool) -> FolderImages:
    """Decode every image, and refuse or leave out those that cannot be read.

    Takes a core some milliseconds an image. Processes that train together share the work out, and
    all get the whole answer.
    """
    rank, world = process_rank()
    share = np.array_split(np.arange(len(images)), world)[rank]
    blocks = np.array_split(share, 1 + len(share) // 64)
    own: list[Unreadable] = []
    bar = tqdm(
        total=len(share),
        desc=f"checking {images.folder.name}",
        unit="image",
        disable=None if rank == 0 else True,
    )
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for block, bad in zip(blocks, pool.map(images.unreadable, blocks), strict=True):
            own += bad
            bar.update(len(block))
    parts = [own]
    if world > 1:
        parts = [[] for _ in range(world)]
        torch.distributed.all_gather_object(parts, own)
    found = [item for part in parts for item in part]
    named = [(images.below(position), f"unreadable: {text}") for position, text in found]
    refuse_or_skip(named, len(images), images.folder, skip=skip)
    return images.without([position for position, _ in found])
