"""FixMatch's two views of an image, in batches: every image has draws of its own.

    weak:    flip, shift by up to an eighth of the width, the border reflected
    strong:  flip, shift, then `n` operations drawn with replacement from a pool of 14, each at a
             random strength, then Cutout of half the width

Pool and ranges: Sohn et al., "FixMatch", NeurIPS 2020, https://arxiv.org/abs/2001.07685, table 12.
Every drawn operation is applied. The released code (https://github.com/google-research/fixmatch,
libml/augment.py) skips each with probability 0.5 and takes strengths from a grid of nine; so does
https://github.com/kekmodel/FixMatch-pytorch, which has the table's ranges. As in the former,
nothing is interpolated, and what comes from outside the image is grey, which is zero once
normalised; in the latter it is black (``fill=0``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data.augmentations.crops import flip_and_shift
from data.augmentations.geometry import cutout
from data.augmentations.operations import Operation, apply_operations
from data.randomness import derive_seed, sample_uniform

__all__ = ["POOL", "fixmatch_strong", "fixmatch_weak"]

GREY = 127


def _enhancement(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return 0.05 + 0.9 * level


def _shear(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return 0.3 * sign * level


def _translation(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return (0.3 * sign * level * width).trunc()  # whole pixels


def _nothing(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return torch.zeros_like(level)


# What Pillow's operation gets, from a level in [0, 1], a sign and the image's width.
POOL: dict[Operation, Callable[[Tensor, Tensor, int], Tensor]] = {
    "autocontrast": _nothing,
    "brightness": _enhancement,
    "color": _enhancement,
    "contrast": _enhancement,
    "equalize": _nothing,
    "identity": _nothing,
    "posterize": lambda level, sign, width: 4 + (5 * level).floor().clamp_max(4),  # 4 to 8 bits
    "rotate": lambda level, sign, width: 30 * sign * level,
    "sharpness": _enhancement,
    "shear_x": _shear,
    "shear_y": _shear,
    "solarize": lambda level, sign, width: 256 - (256 * level).floor(),
    "translate_x": _translation,
    "translate_y": _translation,
}


def fixmatch_weak(images: Tensor, index: Tensor, *, seed: int, flip: bool = True) -> Tensor:
    """Flip and shift.

    Args:
        images: uint8 (B, 3, H, W) on any device.
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run, epoch and view.
        flip: flip half of the images.
    """
    padding = images.shape[-1] // 8
    return flip_and_shift(images, index, seed=seed, padding=padding, flip=flip, border="reflect")


def fixmatch_strong(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    n: int = 2,
    m: float = 10,
    flip: bool = True,
    fill: int = GREY,
) -> Tensor:
    """Flip and shift, RandAugment, Cutout.

    Args:
        images: uint8 (B, 3, H, W) on any device, as they are in the data set.
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run, epoch and view.
        n: operations an image.
        m: the greatest strength, in tenths of each operation's range.
        flip: flip half of the images.
        fill: of what rotation, shear and translation bring in from outside.

    Returns:
        uint8, of the shape and device of `images`.
    """
    if n < 1:
        raise ValueError(f"Expected `n` to be at least 1, but got {n}.")
    if not 0 < m <= 10:
        raise ValueError(f"Expected `m` to be in (0, 10], but got {m}.")
    images = fixmatch_weak(images, index, seed=derive_seed(seed, "shift"), flip=flip)
    height, width = images.shape[2:]
    uniform = sample_uniform(derive_seed(seed, "strong"), index.to(images.device), 3 * n + 2)
    for drawn, strength, side in uniform[:, 2:].unflatten(1, (n, 3)).permute(1, 2, 0):
        operation = (drawn * len(POOL)).long()
        level, sign = strength * (m / 10), torch.where(side < 0.5, -1.0, 1.0)
        value = torch.stack([scale(level, sign, width) for scale in POOL.values()], 1)
        value = value.gather(1, operation[:, None])[:, 0]
        images = apply_operations(
            images, operation, value, tuple(POOL), fill=fill, resampling="nearest"
        )
    row, column = (uniform[:, 0] * height).long(), (uniform[:, 1] * width).long()
    return cutout(images, row, column, size=width // 2, fill=GREY)
