"""Corrupted test sets in the published layout of CIFAR-10-C: write them, open them.

``<corruption>.npy`` is uint8 (5 N, H, W, 3), severity 1 first; ``labels.npy`` has 5 N labels.
Source: Hendrycks & Dietterich 2019, https://github.com/hendrycks/robustness
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.corruptions.recipes import ALL_CORRUPTIONS, corrupt
from data.errors import DataNotFoundError, quoted
from data.files import read_record, replacing, write_record
from data.images import fingerprint
from data.processes import worker_pool

__all__ = [
    "GENERATOR",
    "made_by",
    "open_corrupted",
    "origin_of",
    "require_array",
    "write_corrupted",
]

SEVERITIES = 5
RECORD = "corrupted.json"
# Raised whenever the generator makes other pixels, so that two versions never mix in a folder.
GENERATOR = 3
CHUNK = 250
MIN_IMAGES_FOR_PROCESSES = 20_000


def write_corrupted(
    images: np.ndarray,
    labels: np.ndarray,
    out: Path,
    *,
    corruptions: Sequence[str] = ALL_CORRUPTIONS,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write the corrupted arrays of `images` (N, H, W, 3) uint8 and `labels` (N,) into `out`.

    Finished files are kept, so that an interrupted call continues; a file appears whole or not at
    all. `workers` is the number of processes, None one a core; what is written does not depend on
    it. A script that calls this needs the usual ``if __name__ == "__main__"``.

    Raises:
        ValueError: `out` was made from other images, another seed or another generator.
        OSError: what the disk says, such as that it is full; finished files stay.
    """
    record = {"seed": seed, "source": fingerprint(images, labels), "generator": GENERATOR}
    _check_record(out, record)
    missing = [name for name in corruptions if not (out / f"{name}.npy").is_file()]
    if not missing and (out / "labels.npy").is_file():
        print(f"{out} is complete: nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    if not (out / RECORD).is_file():
        write_record(out / RECORD, record)
    if not (out / "labels.npy").is_file():
        with replacing(out / "labels.npy") as part, part.open("wb") as file:
            np.save(file, np.tile(labels, SEVERITIES), allow_pickle=False)
    workers = workers or os.cpu_count() or 1
    total = len(missing) * SEVERITIES * len(images)
    # Starting processes takes as long as some ten thousand images.
    pooled = workers > 1 and total > MIN_IMAGES_FOR_PROCESSES
    with (
        tqdm(total=total, unit="image", unit_scale=True, disable=None) as bar,
        _pool(images, workers) if pooled else nullcontext(None) as pool,
    ):
        for name in missing:
            bar.set_description(name)
            with replacing(out / f"{name}.npy") as part:
                _write_one(images, name, part, seed, pool, bar)


def _check_record(out: Path, record: dict[str, Any]) -> None:
    path = out / RECORD
    if not path.is_file():
        if any((out / f"{name}.npy").exists() for name in (*ALL_CORRUPTIONS, "labels")):
            raise ValueError(
                f"Expected {out} to be empty or made here, but it holds arrays and no {RECORD}: "
                "they may be the published ones. Give another --out."
            )
        return
    found = read_record(path) or {}
    if different := [key for key in record if found.get(key) != record[key]]:
        raise ValueError(
            f"Expected {out} to be empty or made from the same images and seed, but its {RECORD} "
            f"has another {' and '.join(different)}: give another --out, or delete the folder."
        )


Chunk = tuple[Path, str, int, int, int, int]
_images: Tensor | None = None


def _pool(images: np.ndarray, workers: int) -> ProcessPoolExecutor:
    return worker_pool(workers, "spawn", _start_worker, images)


def _start_worker(images: np.ndarray) -> None:
    global _images
    torch.set_num_threads(1)
    _images = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()


def _write_one(
    images: np.ndarray,
    name: str,
    part: Path,
    seed: int,
    pool: ProcessPoolExecutor | None,
    bar: tqdm[Any],
) -> None:
    """One corruption at all severities; every chunk goes to its own place in the file."""
    n = len(images)
    shape = (SEVERITIES * n, *images.shape[1:])
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    # Reserve the space: a full disk must be an error here, not a killed process later.
    with part.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
    del array
    chunks = [
        (part, name, severity, seed, first, min(first + CHUNK, n))
        for severity in range(1, SEVERITIES + 1)
        for first in range(0, n, CHUNK)
    ]
    if pool is None:
        threads = torch.get_num_threads()
        _start_worker(images)
        torch.set_num_threads(threads)
    for done in map(_write_chunk, chunks) if pool is None else pool.map(_write_chunk, chunks):
        bar.update(done)


def _write_chunk(chunk: Chunk) -> int:
    part, name, severity, seed, first, last = chunk
    assert _images is not None
    made = corrupt(_images[first:last], name, severity, seed=seed, first=first)
    array = np.lib.format.open_memmap(part, mode="r+")
    start = (severity - 1) * len(_images)
    array[start + first : start + last] = made.permute(0, 2, 3, 1).numpy()
    array.flush()
    return last - first


def open_corrupted(
    root: Path, names: Sequence[str], n: int | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Memory-mapped arrays by corruption, and the labels; nothing in them is unpickled.

    Args:
        root: folder in the published layout.
        names: corruptions to open.
        n: images of the clean test set; None accepts any number.

    Raises:
        DataNotFoundError: folder or file missing.
        ValueError: a damaged file, or one of another shape, dtype or length.
    """
    labels = _open(root, "labels")
    if labels.ndim != 1 or len(labels) % SEVERITIES or (n and len(labels) != SEVERITIES * n):
        wanted = f"{SEVERITIES * n}" if n else f"a multiple of {SEVERITIES}"
        raise ValueError(
            f"Expected {root / 'labels.npy'} to hold {wanted} labels, 5 severities of the clean "
            f"test set, but got shape {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"Expected {root / 'labels.npy'} to hold integers, but got {labels.dtype}: make or "
            "fetch it again."
        )
    arrays = {name: _open(root, name) for name in names}
    for name, array in arrays.items():
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[::3] != (len(labels), 3):
            raise ValueError(
                f"Expected {root / name}.npy to be uint8 ({len(labels)}, H, W, 3), but got "
                f"{array.dtype} {array.shape}: make or fetch it again."
            )
    return arrays, np.asarray(labels)


def origin_of(root: Path, images: np.ndarray, labels: np.ndarray) -> str:
    """Who made the corrupted arrays in `root`, which belong to these clean test images.

    Raises:
        ValueError: they were made here from other images.
    """
    record = read_record(root / RECORD)
    if record is None:
        return "given files"
    if record.get("source") != fingerprint(images, labels):
        raise ValueError(
            f"Expected {root} to be made from this test set, but its {RECORD} names other images: "
            "give the matching folder by --data.corrupted, or make it anew in an empty one."
        )
    return made_by(record.get("generator"), record.get("seed"))


def made_by(generator: Any, seed: Any) -> str:
    """How results name our own corruptions."""
    return f"data.corruptions, generator {generator}, seed {seed}"


def require_array(root: Path, name: str) -> Path:
    """The file of a corruption, or of the labels.

    Raises:
        DataNotFoundError: it is not there.
    """
    path = root / f"{name}.npy"
    if not path.is_file():
        raise DataNotFoundError(
            f"Expected {path}, but there is no such file: fetch the published set with "
            "`python -m data.prepare cifar10c`, or make one with `python -m data.prepare corrupt`."
        )
    return path


def _open(root: Path, name: str) -> np.ndarray:
    path = require_array(root, name)
    try:
        # Unlike np.load, it takes no archive of arrays for an array; of objects it opens none.
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # A damaged header fails wherever the damage is, in any way.
        raise ValueError(
            f"Expected {path} to be a whole array of numbers, but it could not be read "
            f"({quoted(error)}): delete it and make or fetch it again."
        ) from error
