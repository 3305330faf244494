"""Augmentations of a training batch, on its device: what ``--data.augment`` lists.

An augmentation changes a batch {"image": (B, 3, H, W) from 0 to 255, "label", "index", "epoch",
"number"}. Cutout and AutoAugment change its images; AugMix adds "views", more versions of them;
Mixup and CutMix mix images and turn "label" into probabilities (B, classes), which cross-entropy
takes like indices. So a task needs to know of none of them but the views.

What is drawn for a sample is a function of (seed, epoch, index), for a batch of (seed, number).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torchvision.transforms import v2

from data.augmentations.augmix import augmix
from data.augmentations.autoaugment import Policy, autoaugment
from data.augmentations.geometry import cutout
from data.randomness import derive_seed, sample_uniform

__all__ = ["AugMix", "Augmentation", "AutoAugment", "CutMix", "Cutout", "Mixup", "check_order"]

Batch = dict[str, Any]


class Augmentation(ABC):
    """One step of augmentation.

    Attributes:
        LAST: nothing may follow it.
        NEIGHBOUR: it mixes each sample with the one before it in the global batch, and so a process
            needs one sample more than its share; see :class:`data.loading.TrainLoader`.
    """

    LAST: ClassVar[bool] = False
    NEIGHBOUR: ClassVar[bool] = False

    @abstractmethod
    def apply(self, batch: Batch, *, seed: int, classes: int) -> None:
        """Change `batch` in place; `seed` is the run's, `classes` the number of classes."""

    def sample_seed(self, batch: Batch, seed: int) -> int:
        """The seed of draws for each sample in this epoch."""
        return derive_seed(seed, type(self).__name__, batch["epoch"])


def check_order(augment: Sequence[Augmentation]) -> None:
    """Refuse steps that contradict one another."""
    names = [type(step).__name__ for step in augment]
    for name, step in zip(names[:-1], augment, strict=False):
        if step.LAST:
            raise ValueError(
                f"Expected `augment` to end with {name}, which no other step can follow (so "
                f"AugMix, Mixup and CutMix exclude one another), but got {', '.join(names)}: "
                "leave one out, or change the order."
            )


class Cutout(Augmentation):
    """A grey square at a random place of every image.

    Source: DeVries & Taylor 2017, https://arxiv.org/abs/1708.04552; 16 pixels on CIFAR-10, 8 on
    CIFAR-100.

    Args:
        size: side of the square in pixels; None is half of the image's width. Its centre is any
            pixel, so parts of it may lie outside.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 2:
            raise ValueError(f"Expected `size` to be at least 2, but got {size}.")
        self.size = size

    def apply(self, batch: Batch, *, seed: int, classes: int) -> None:
        images = batch["image"]
        height, width = images.shape[2:]
        uniform = sample_uniform(self.sample_seed(batch, seed), batch["index"], 2)
        row, column = (uniform[:, 0] * height).long(), (uniform[:, 1] * width).long()
        batch["image"] = cutout(images, row, column, size=self.size or width // 2)


class AutoAugment(Augmentation):
    """torchvision's AutoAugment, another policy for every image.

    See :mod:`data.augmentations.autoaugment`.

    Args:
        policy: "cifar10", "imagenet" or "svhn".
    """

    def __init__(self, policy: Policy = "cifar10") -> None:
        if policy not in get_args(Policy):
            raise ValueError(
                f"Expected `policy` to be one of {get_args(Policy)}, but got {policy!r}."
            )
        self.policy = policy

    def apply(self, batch: Batch, *, seed: int, classes: int) -> None:
        own = self.sample_seed(batch, seed)
        batch["image"] = autoaugment(batch["image"], batch["index"], seed=own, policy=self.policy)


class AugMix(Augmentation):
    """Two AugMix views beside the images, for a consistency loss.

    See :mod:`data.augmentations.augmix`.

    Args:
        width: chains an image.
        depth: operations a chain; None draws 1, 2 or 3 for each.
        severity: the greatest strength, on a scale to 10.
    """

    LAST = True

    def __init__(self, width: int = 3, depth: int | None = None, severity: float = 3.0) -> None:
        if width < 1 or (depth is not None and depth < 1):
            raise ValueError(
                f"Expected `width` and `depth` to be at least 1, but got {width} and {depth}."
            )
        if not 0.1 <= severity <= 10:
            raise ValueError(f"Expected `severity` to be in [0.1, 10], but got {severity}.")
        self.width, self.depth, self.severity = width, depth, severity

    def apply(self, batch: Batch, *, seed: int, classes: int) -> None:
        batch["views"] = [
            augmix(
                batch["image"],
                batch["index"],
                seed=derive_seed(self.sample_seed(batch, seed), view),
                width=self.width,
                depth=self.depth,
                severity=self.severity,
            )
            for view in range(2)
        ]


class _Mixing(Augmentation):
    """torchvision's mixing of each image with its neighbour in the global batch, one draw a batch.

    All processes draw the same numbers and know the neighbour of their first image, so that their
    number changes nothing.
    """

    LAST = True
    NEIGHBOUR = True
    MIX: ClassVar[Callable[..., v2.Transform]]

    def __init__(self, alpha: float, p: float) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(f"Expected `alpha` to be positive, but got {alpha}.")
        if not 0 <= p <= 1:
            raise ValueError(f"Expected `p` to be in [0, 1], but got {p}.")
        self.alpha, self.p = alpha, p

    def apply(self, batch: Batch, *, seed: int, classes: int) -> None:
        own = derive_seed(seed, type(self).__name__, batch["number"])
        images, label = batch["image"].float(), batch["label"]
        # The transform draws from torch's generator of the CPU, which gets its state back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(own)
            if torch.rand(()) < self.p:
                mix = type(self).MIX(alpha=self.alpha, num_classes=classes)
                images, label = mix(images, label)
        batch["image"], batch["label"] = images, _probabilities(label, classes)
        if batch.pop("neighbour", False):
            for key in ("image", "label", "index"):
                batch[key] = batch[key][1:]


def _probabilities(label: Tensor, classes: int) -> Tensor:
    if label.ndim == 2:
        return label
    return torch.nn.functional.one_hot(label, classes).float()


class Mixup(_Mixing):
    """Every image a blend of itself and another, and so its label.

    Source: Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412

    Args:
        alpha: the blend's share is drawn from Beta(alpha, alpha), once for a batch.
        p: probability that a batch is mixed.
    """

    MIX = v2.MixUp

    def __init__(self, alpha: float = 1.0, p: float = 1.0) -> None:
        super().__init__(alpha, p)


class CutMix(_Mixing):
    """A rectangle of every image from another one, and the label by area.

    Source: Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899, and its code's probability for
    CIFAR, https://github.com/clovaai/CutMix-PyTorch

    Args:
        alpha: the area's share is drawn from Beta(alpha, alpha), once for a batch.
        p: probability that a batch is mixed.
    """

    MIX = v2.CutMix

    def __init__(self, alpha: float = 1.0, p: float = 0.5) -> None:
        super().__init__(alpha, p)
