"""AutoAugment in batches: every image draws one of 25 policies of two operations each.

Policies: torchvision's tables of Cubuk et al., CVPR 2019, https://arxiv.org/abs/1805.09501. Ranges
and resampling as in torchvision. They hold operations that the corruptions of the test are made
of (brightness, contrast, colour).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from data.augmentations.operations import OPERATIONS, Operation, apply_operations
from data.randomness import sample_uniform

__all__ = ["Policy", "autoaugment"]

Policy = Literal["cifar10", "imagenet", "svhn"]

# torchvision's names; ours are Pillow's.
_NAMES: dict[str, Operation] = {
    "AutoContrast": "autocontrast",
    "Brightness": "brightness",
    "Color": "color",
    "Contrast": "contrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Posterize": "posterize",
    "Rotate": "rotate",
    "Sharpness": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "Solarize": "solarize",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
}
_LEVELS = 9  # the greatest
# (centre, signed half-width): the operation gets centre, or centre +- half-width * level / 9.
_RANGES: dict[str, Callable[[int, int], tuple[float, float]]] = {
    "rotate": lambda height, width: (0.0, 30.0),
    "shear_x": lambda height, width: (0.0, 0.3),
    "shear_y": lambda height, width: (0.0, 0.3),
    "translate_x": lambda height, width: (0.0, 150 / 331 * width),
    "translate_y": lambda height, width: (0.0, 150 / 331 * height),
    "brightness": lambda height, width: (1.0, 0.9),
    "color": lambda height, width: (1.0, 0.9),
    "contrast": lambda height, width: (1.0, 0.9),
    "sharpness": lambda height, width: (1.0, 0.9),
}


class _Table(NamedTuple):
    """The 25 policies as tensors (25, 2); see `_RANGES` for the last two."""

    operation: Tensor
    probability: Tensor
    centre: Tensor
    spread: Tensor


@cache
def _table(policy: Policy, height: int, width: int, device: torch.device) -> _Table:
    rows: list[list[tuple[int, float, float, float]]] = []
    for pair in AutoAugment(AutoAugmentPolicy(policy)).policies:
        row = []
        for foreign, probability, level in pair:
            name = _NAMES[foreign]
            centre, spread = _parameter(name, level or 0, height, width)
            row.append((OPERATIONS.index(name), probability, centre, spread))
        rows.append(row)
    operation, *others = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    return _Table(operation.long().to(device), *(part.float().to(device) for part in others))


def _parameter(name: Operation, level: int, height: int, width: int) -> tuple[float, float]:
    if name == "posterize":
        return float(round(8 - level / (_LEVELS / 4))), 0.0
    if name == "solarize":
        return 255 * (1 - level / _LEVELS), 0.0
    if name not in _RANGES:
        return 0.0, 0.0
    centre, most = _RANGES[name](height, width)
    spread = most * level / _LEVELS
    return centre, float(int(spread)) if name.startswith("translate") else spread


def autoaugment(images: Tensor, index: Tensor, *, seed: int, policy: Policy = "cifar10") -> Tensor:
    """Apply one policy to every image.

    Args:
        images: uint8 (B, 3, H, W) on any device.
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run and epoch.
        policy: the data set that the policies were found on.

    Returns:
        uint8, of the shape and device of `images`.
    """
    height, width = images.shape[2:]
    table = _table(policy, height, width, images.device)
    uniform = sample_uniform(seed, index.to(images.device), 5)
    chosen = (uniform[:, 0] * len(table.operation)).long()
    for step in range(2):
        coin, side = uniform[:, 1 + 2 * step], uniform[:, 2 + 2 * step]
        operation, probability, centre, spread = (part[chosen, step] for part in table)
        value = centre + torch.where(side < 0.5, -1.0, 1.0) * spread
        # Another number than an operation's leaves the image as it is.
        operation = operation.masked_fill(coin >= probability, -1)
        images = apply_operations(images, operation, value, OPERATIONS, resampling="nearest")
    return images
