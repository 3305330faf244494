"""Scikit-learn's bundled digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from data.classification.module import SEVERITIES, Arrays, ImageClassificationData
from data.corruptions.arrays import GENERATOR, made_by
from data.corruptions.recipes import corrupt
from data.images import Group

__all__ = [
    "Digits",
]


class Digits(ImageClassificationData):
    """scikit-learn's bundled scans of handwritten digits: 1,200 for training, 597 for the test.

    The scans are 8x8 greys (UCI "Optical Recognition of Handwritten Digits", Alpaydin & Kaynak
    1998), doubled to 16x16 and given three channels. Order, and so the split, is fixed. The test's
    corruptions are made here, from a fixed seed; the default ones are one of each family, and
    contrast beside brightness.
    """

    title = "scikit-learn digits (16x16)"
    num_classes = 10
    SIZE = 16
    COMPLETE = ("gaussian_noise", "defocus_blur", "fog", "brightness", "contrast")
    CORRUPTION_SEED = 0
    TRAIN = 1200

    def __init__(
        self,
        *,
        batch_size: int = 64,
        padding: int = 2,
        flip: bool = False,
        corruptions: Sequence[str] = COMPLETE,
        **options: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, padding=padding, flip=flip, corruptions=corruptions, **options
        )

    def read(self) -> tuple[Arrays, Arrays]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
        large = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear")
        images = large.round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
        labels = digits.target.astype(np.int64)
        # The scans come writer by writer; a fixed shuffle gives both parts the same writers.
        order = np.random.RandomState(0).permutation(len(labels))
        images, labels = np.ascontiguousarray(images[order]), labels[order]
        cut = self.TRAIN
        return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])

    def describe(self) -> dict[str, Any]:
        made = {"corrupted": made_by(GENERATOR, self.CORRUPTION_SEED)} if self.corruptions else {}
        return {**super().describe(), **made}

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        images = torch.from_numpy(test[0]).permute(0, 3, 1, 2).contiguous()
        sets: dict[Group, Arrays] = {}
        for name in self.corruptions:
            for severity in SEVERITIES:
                made = corrupt(images, name, severity, seed=self.CORRUPTION_SEED)
                array = np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy())
                sets[Group(name, severity)] = array, test[1]
        return sets
