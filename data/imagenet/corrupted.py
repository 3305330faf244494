"""Corrupted versions of an image folder's validation images, in ImageNet-C's layout.

    <out>/<corruption>/<severity>/<class>/<name>.png

They are made by :mod:`data.corruptions`, whose constants are CIFAR-10-C's: figures on them cannot
be compared with those on the published ImageNet-C, and results say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from data.corruptions.arrays import GENERATOR
from data.corruptions.recipes import corrupt
from data.files import read_record, replacing, write_record
from data.imagenet.batches import centre_square
from data.imagenet.folders import FolderImages
from data.imagenet.layout import RECORD, Condition, files_fingerprint
from data.processes import worker_pool

__all__ = ["write_corrupted_folder"]

CHUNK = 16
UNFINISHED = ".unfinished"


def write_corrupted_folder(
    images: FolderImages,
    out: Path,
    *,
    conditions: Sequence[Condition],
    size: int,
    resize: int,
    seed: int,
    workers: int,
) -> None:
    """Write the missing ones of `conditions` of `images` into `out`.

    A condition's folder gets its name when it is complete; an interrupted call continues. What is
    written does not depend on `workers`.

    Args:
        images: to corrupt.
        out: folder of the corrupted set.
        conditions: corruption and severity of each.
        size: side of the squares that are made, in pixels.
        resize: of the shorter side before the middle square is cut out.
        seed: of everything random.
        workers: processes.

    Raises:
        ValueError: `out` was made from other images or with other options.
        OSError: what the disk says.
    """
    if len({_png(images, position) for position in range(len(images))}) < len(images):
        raise ValueError(
            f"Expected the images of a class in {images.folder} to differ in more than the ending "
            "of their names, but some do not: rename them."
        )
    facts = {"seed": seed, "generator": GENERATOR, "size": size, "resize": resize}
    _check_record(out, {**facts, "source": files_fingerprint([images])})
    missing = [(name, s) for name, s in conditions if not (out / name / str(s)).is_dir()]
    if not missing:
        print(f"{out} is complete: nothing to do")
        return
    folders = [out / name / f"{severity}{UNFINISHED}" for name, severity in missing]
    for folder in folders:
        for name in images.classes:
            (folder / name).mkdir(parents=True, exist_ok=True)
    work = partial(_write_chunk, images, out, missing, size, resize, seed)
    chunks = [
        range(first, min(first + CHUNK, len(images))) for first in range(0, len(images), CHUNK)
    ]
    total = len(missing) * len(images)
    with tqdm(total=total, unit="image", unit_scale=True, disable=None) as bar:
        if workers == 1:
            for done in map(work, chunks):
                bar.update(done)
        else:
            with worker_pool(workers, "spawn", torch.set_num_threads, 1) as pool:
                for done in pool.map(work, chunks):
                    bar.update(done)
    for folder in folders:
        os.replace(folder, folder.with_name(folder.name.removesuffix(UNFINISHED)))


def _png(images: FolderImages, position: int) -> Path:
    return Path(images.below(position)).with_suffix(".png")


def _check_record(out: Path, record: dict[str, Any]) -> None:
    path = out / RECORD
    if not path.is_file():
        if out.is_dir() and any(path.name[0] != "." for path in out.iterdir()):
            raise ValueError(
                f"Expected {out} to be empty or made here, but it holds files and no {RECORD}: "
                "they may be the published ones. Give another --out."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_record(path, record)
    found = read_record(path) or {}
    if different := [key for key in record if found.get(key) != record[key]]:
        raise ValueError(
            f"Expected {out} to be empty or made from the same images with the same options, but "
            f"its {RECORD} has another {' and '.join(different)}: give another --out, or delete "
            "the folder."
        )


def _squares(images: FolderImages, positions: range, size: int, resize: int) -> Tensor:
    cut = (centre_square(images.read(p), "", resize=resize, size=size) for p in positions)
    array = np.stack([np.asarray(square) for square in cut])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def _write_chunk(
    images: FolderImages,
    out: Path,
    conditions: Sequence[Condition],
    size: int,
    resize: int,
    seed: int,
    positions: range,
) -> int:
    """All conditions of a few images, which are decoded once; what is there already stays."""
    squares: Tensor | None = None
    names = [_png(images, position) for position in positions]
    for corruption, severity in conditions:
        folder = out / corruption / f"{severity}{UNFINISHED}"
        if all((folder / name).is_file() for name in names):
            continue
        if squares is None:
            squares = _squares(images, positions, size, resize)
        made = corrupt(squares, corruption, severity, seed=seed, first=positions.start)
        for name, pixels in zip(names, made.permute(0, 2, 3, 1).numpy(), strict=True):
            # The default level takes three times as long for a few percent of size.
            with replacing(folder / name, sync=False) as part:
                Image.fromarray(pixels).save(part, "PNG", compress_level=1)
    return len(positions) * len(conditions)
