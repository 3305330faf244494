"""Images in memory: uint8 tensors, read by batch, augmented by batch on the device."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EvaluationSets",
    "Group",
    "ImageTensor",
    "by_channel",
    "check_statistics",
    "fingerprint",
    "has_two_orders",
    "normalise",
]


def has_two_orders(classes: Sequence[str]) -> bool:
    """Whether the names are numbers that stand in another order as names: 0, 1, 10, 2."""
    return all(map(str.isdecimal, classes)) and sorted(classes) != sorted(classes, key=int)


def fingerprint(*arrays: np.ndarray) -> str:
    """First 16 hexadecimal digits of the SHA-256 of shapes and contents."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


class ImageTensor:
    """All images of a set as one tensor.

    Args:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: list[int]) -> dict[str, Tensor]:
        index = torch.as_tensor(positions)
        return {"image": self.images[index], "label": self.labels[index], "index": index}


class Group(NamedTuple):
    """One test condition; severity 0 is the clean set."""

    corruption: str
    severity: int


class EvaluationSets:
    """Several sets of images behind one another, each with its condition's number as ``group``.

    Args:
        groups: the conditions.
        arrays: one uint8 array (N, H, W, 3) a condition; may be memory-mapped, read batch by batch.
        labels: one int64 array (N,) a condition.
    """

    def __init__(
        self, groups: Sequence[Group], arrays: Sequence[np.ndarray], labels: Sequence[np.ndarray]
    ) -> None:
        self.groups = list(groups)
        self._arrays = arrays
        self._labels = labels
        self._ends = np.cumsum([len(array) for array in arrays])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def fingerprint(self) -> str:
        """Of every condition's name, images and labels."""
        names = np.frombuffer(json.dumps(self.groups).encode(), np.uint8)
        return fingerprint(names, *self._arrays, *self._labels)

    def span(self, group: int) -> range:
        """The positions of a condition's images."""
        end = int(self._ends[group])
        return range(end - len(self._arrays[group]), end)

    def __getitem__(self, positions: list[int] | Tensor) -> dict[str, Tensor]:
        index = np.asarray(positions)
        group = np.searchsorted(self._ends, index, side="right")
        images, labels, own = [], [], []
        # In order, so a batch touches one or two neighbouring sets.
        for g in np.unique(group):
            array = self._arrays[g]
            places = index[group == g] - self.span(g).start
            images.append(np.asarray(array[places]))
            labels.append(self._labels[g][places])
            own.append(places)
        stacked = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
        return {
            "image": stacked,
            "label": torch.from_numpy(np.concatenate(labels)).long(),
            "group": torch.from_numpy(group),
            "index": torch.from_numpy(np.concatenate(own)),
        }


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # An ordinary tensor also where the first to ask is an evaluation in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(device)


def by_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """float32 (1, C, 1, 1); copied to the device once, because a copy waits for it."""
    return _by_channel(tuple(values), device)


def check_statistics(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two of a normalisation, as they are kept.

    Raises:
        ValueError: they are not of three channels, or no image can be divided by `std`.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise ValueError(
                f"Expected `{name}` to be three numbers, for red, green and blue, but got "
                f"{list(values)}."
            )
    if min(std) <= 0:
        raise ValueError(f"Expected `std` to be positive, but got {list(std)}.")
    return tuple(mean), tuple(std)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) from 0 to 255 to float32, scaled to [0, 1], then (x - mean) / std by channel."""
    offset, scale = by_channel(mean, images.device), by_channel(std, images.device)
    return (images.float() / 255 - offset) / scale
