"""CIFAR-10 from JPEG copies of its images, for `data.prepare`: another set, which says so.

The file is an .npz of ``jpeg`` (bytes of all images, training images first), ``offsets`` (N + 1),
``train_labels`` and ``test_labels``. What is compressed is no longer clean, so results on it are
called cifar10-jpegq75 (quality 75) and never CIFAR-10.
"""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.classification.cifar import SETS as LAYOUTS
from data.classification.cifar import TITLE
from data.errors import DataNotFoundError, quoted
from data.files import only_one, replacing, require_writable, say
from data.prepare.catalogue import Made, folder_path

__all__ = ["SETS"]

NAME = "cifar10-jpegq75"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", type=folder_path, required=True, help="the .npz of JPEG images"
    )


def _make(options: argparse.Namespace) -> None:
    layout = LAYOUTS["cifar10"]
    folder = options.root / layout.folder
    require_writable(options.root, "choose another --root")
    with only_one(options.root / f".{NAME}.lock"):
        title = folder / TITLE
        files = [*layout.train, *layout.test]
        there = [(folder / name).exists() for name in files]
        if any(there) and not title.exists():
            raise ValueError(
                f"Expected no other images in {folder}, but there are some: choose another --root."
            )
        if all(there):
            say(f"{NAME} is complete in {options.root}: nothing to do.")
            return
        images, train, test = _read(options.source)
        parts = [
            *zip(np.array_split(images[: len(train)], 5), np.array_split(train, 5), strict=True)
        ]
        batches = [pickle.dumps({"data": x, "labels": y.tolist()}, 4) for x, y in parts]
        batches.append(pickle.dumps({"data": images[len(train) :], "labels": test.tolist()}, 4))
        folder.mkdir(parents=True, exist_ok=True)
        title.write_text(NAME + "\n")
        for name, batch in zip(files, batches, strict=True):
            with replacing(folder / name) as part:
                part.write_bytes(batch)
    say(f"Done: {options.root}, {len(train)} training and {len(test)} test images of {NAME}.")


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 (N, 3072) as CIFAR's files have them, and the labels of both parts."""
    if not path.is_file():
        raise DataNotFoundError(f"Expected JPEG images at {path}, but there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ("jpeg", "offsets", "train_labels", "test_labels")
            content, offsets, train, test = (file[name] for name in names)
        data = content.tobytes()
        spans = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        images = np.stack([_decoded(data[start:end]) for start, end in spans])
        if len(images) != len(train) + len(test):
            raise ValueError(f"{len(images)} images have {len(train)}+{len(test)} labels")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, UnidentifiedImageError) as error:
        raise ValueError(
            f"Expected {path} to hold jpeg, offsets, train_labels and test_labels of 32x32 images, "
            f"but {quoted(error)}."
        ) from error
    return images, train, test


def _decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        if image.size != (32, 32):
            raise ValueError(f"one is of size {image.size}")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1).reshape(-1)


SETS: dict[str, Made] = {
    "cifar10_jpegq75": Made(
        title="CIFAR-10 from JPEG copies",
        about="write CIFAR's layout from an .npz of JPEG copies; results call it cifar10-jpegq75",
        add_options=_options,
        make=_make,
    ),
}
