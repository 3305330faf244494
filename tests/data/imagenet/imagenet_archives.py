"""ImageNet's registered archives, small: two classes of three images, and four to validate."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import io as scipy_io
from torchvision.datasets import imagenet as published

from data.imagenet import layout as imagenet_layout
from data.prepare import imagenet as imagenet_sets
from tests.archive_bytes import gz, tar_bytes

CLASSES = ("n01440764", "n01443537")
PARTS = ("train", "val", "devkit")


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (level, 10, 10)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_registered(root: Path) -> None:
    """The archives as registration gives them; validation images 2 and 3 are of the first class."""
    inner = [
        (f"{name}.tar", tar_bytes([(f"{name}_{i}.JPEG", jpeg(40 * k + i)) for i in range(3)]))
        for k, name in enumerate(CLASSES)
    ]
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", jpeg(100 + i)) for i in (3, 1, 4, 2)]
    folder = "ILSVRC2012_devkit_t12/data"
    devkit = [
        (f"{folder}/meta.mat", _meta()),
        (f"{folder}/ILSVRC2012_validation_ground_truth.txt", b"2\n1\n1\n2\n"),
    ]
    contents = (tar_bytes([*inner]), tar_bytes([*val]), gz(tar_bytes([*devkit])))
    for part, content in zip(PARTS, contents, strict=True):
        (root / published.ARCHIVE_META[part][0]).write_bytes(content)


def _meta() -> bytes:
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.zeros(2, dtype=[*kinds, ("num_children", "i4")])
    synsets["ILSVRC2012_ID"], synsets["WNID"] = (1, 2), CLASSES
    synsets["words"], synsets["gloss"] = ("tench", "goldfish"), ("a", "b")
    stream = io.BytesIO()
    scipy_io.savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def count_small(patch: Any) -> None:
    """Let these counts be ImageNet's, by `patch`, which sets attributes as pytest's does."""
    for module in (imagenet_layout, imagenet_sets):
        for name, value in (("CLASSES", 2), ("TRAINING", 6), ("VALIDATION", 4)):
            patch.setattr(module, name, value)


def take_for_published(root: Path, patch: Any) -> None:
    """Let the archives in `root` be the published ones."""
    count_small(patch)
    names = {part: published.ARCHIVE_META[part][0] for part in PARTS}
    facts = {
        part: (name, hashlib.md5((root / name).read_bytes()).hexdigest())
        for part, name in names.items()
    }
    patch.setattr(published, "ARCHIVE_META", facts)
    patch.setattr(imagenet_sets, "UNPACKED", {"train": 1, "val": 1})
