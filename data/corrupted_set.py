"""Corrupted test sets in the published layout of CIFAR-10-C: write them, open them.

``<corruption>.npy`` is uint8 (5 N, H, W, 3), severity 1 first; ``labels.npy`` has 5 N labels.
Source: Hendrycks & Dietterich 2019, https://github.com/hendrycks/robustness
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.corruptions import ALL_CORRUPTIONS, corrupt
from data.errors import DataNotFoundError
from data.images import fingerprint

__all__ = ["open_corrupted", "write_corrupted"]

SEVERITIES = 5
RECORD = "corrupted.json"


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
    all. `workers` is the number of threads; None means all cores.

    Raises:
        ValueError: `out` was made from other images or another seed.
    """
    if workers is not None:
        torch.set_num_threads(workers)
    record = {"seed": seed, "source": fingerprint(images, labels)}
    path = out / RECORD
    if path.is_file() and json.loads(path.read_text()) != record:
        raise ValueError(
            f"Expected {out} to be empty or made from the same images and seed, but {RECORD} says "
            "otherwise: give another --out."
        )
    missing = [name for name in corruptions if not (out / f"{name}.npy").is_file()]
    if not missing and (out / "labels.npy").is_file():
        print(f"{out} is complete: nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        path.write_text(json.dumps(record) + "\n")
    if not (out / "labels.npy").is_file():
        _save(out / "labels.npy", np.tile(labels, SEVERITIES))
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    for name in missing:
        made = [corrupt(tensor, name, s, seed=seed) for s in range(1, SEVERITIES + 1)]
        _save(out / f"{name}.npy", torch.cat(made).permute(0, 2, 3, 1).numpy())


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


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
    arrays = {name: _open(root, name) for name in names}
    for name, array in arrays.items():
        if array.dtype != np.uint8 or array.ndim != 4 or len(array) != len(labels):
            raise ValueError(
                f"Expected {root / name}.npy to be uint8 ({len(labels)}, H, W, 3), but got "
                f"{array.dtype} {array.shape}: make or fetch it again."
            )
    return arrays, np.asarray(labels)


def _open(root: Path, name: str) -> np.ndarray:
    path = root / f"{name}.npy"
    if not path.is_file():
        raise DataNotFoundError(
            f"Expected {path}, but there is no such file: fetch the published set with "
            "`python -m data.prepare cifar10c`, or make one with `python -m data.prepare corrupt`."
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"Expected {path} to be a whole array of numbers, but it could not be read ({error}): "
            "delete it and make or fetch it again."
        ) from error
