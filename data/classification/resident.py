"""A training set that stays on the device, where each batch is gathered.

The loader then gives out the samples' numbers alone, by the same schedule as ever, so samples,
their order and their augmentation are those of images that come from the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.images import ImageTensor
from data.loading import Batch

__all__ = ["Numbers", "ResidentImages"]


class Numbers:
    """Stands for a set of `length` samples in a loader: its batches are {"index": (B,)}."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, positions: list[int]) -> Batch:
        return {"index": torch.as_tensor(positions)}


class ResidentImages:
    """All images of a set on whichever device its batches are on; copied there once.

    Args:
        images: on the host; N x 3 x H x W bytes on the device, 154 MB for CIFAR.
    """

    def __init__(self, images: ImageTensor) -> None:
        self._host = images
        self._device: tuple[torch.device, Tensor, Tensor] | None = None

    def numbers(self) -> Numbers:
        """What a loader reads in the images' place."""
        return Numbers(len(self._host))

    def fill(self, batch: Batch) -> None:
        """Add "image" and "label" to a batch that has but "index"."""
        index = batch["index"]
        if self._device is None or self._device[0] != index.device:
            parts = (part.to(index.device) for part in (self._host.images, self._host.labels))
            self._device = index.device, *parts
        _, images, labels = self._device
        batch["image"], batch["label"] = images[index], labels[index]
