"""Pillow's image operations on batches of uint8 tensors, each image with one of its own.

    ImageOps:     autocontrast, equalize, invert, posterize, solarize
    ImageEnhance: brightness, color, contrast, sharpness  (1 changes nothing)
    Image:        rotate, shear_x, shear_y, translate_x, translate_y

They are the operations of AugMix (https://github.com/google-research/augmix), of RandAugment as
FixMatch uses it (https://github.com/google-research/fixmatch) and of AutoAugment. Images may be on
any device, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from data.augmentations.geometry import Geometric, Resampling, affine, matrix_of
from data.augmentations.tones import (
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    invert,
    per_image,
    posterize,
    sharpness,
    solarize,
)

__all__ = ["OPERATIONS", "Operation", "apply_operations"]

Tonal = Literal[
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "brightness",
    "color",
    "contrast",
    "sharpness",
]
Operation = Literal["identity"] | Tonal | Geometric
OPERATIONS: tuple[Operation, ...] = ("identity", *get_args(Tonal), *get_args(Geometric))
_Batched = Callable[[Tensor, Tensor], Tensor]  # of the images and a value for each

_TONAL: dict[str, _Batched] = {
    "autocontrast": lambda images, value: autocontrast(images),
    "equalize": lambda images, value: equalize(images),
    "invert": lambda images, value: invert(images),
    "posterize": posterize,
    "solarize": solarize,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
}


def apply_operations(
    images: Tensor,
    operation: Tensor,
    value: Tensor,
    pool: Sequence[Operation],
    *,
    fill: int = 0,
    resampling: Resampling = "bilinear",
) -> Tensor:
    """Apply to image i the operation ``pool[operation[i]]`` with the parameter ``value[i]``.

    Args:
        images: uint8 (B, 3, H, W).
        operation: int64 (B,), places in `pool`; another number leaves the image as it is.
        value: float32 (B,): bits of posterize, threshold of solarize, factor of brightness, color,
            contrast and sharpness, degrees of rotate, slope of shear, pixels of translate; the
            other operations have none.
        pool: names of operations.
        fill, resampling: of the geometric operations, see :func:`affine`.

    Returns:
        uint8, of the shape and device of `images`.

    Raises:
        ValueError: for images of another type or shape and unknown names.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Expected `images` to be uint8 (B, 3, H, W), but got {images.dtype} "
            f"{tuple(images.shape)}."
        )
    unknown = [name for name in pool if name not in OPERATIONS]
    if unknown:
        raise ValueError(f"Expected `pool` to be among {OPERATIONS}, but got {unknown}.")
    height, width = images.shape[2:]
    matrix = torch.zeros(len(images), 6, device=images.device)
    geometric = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    jobs: list[_Job] = []
    for number, name in enumerate(pool):
        chosen = operation == number
        if name in _TONAL:
            jobs.append(_Job(chosen, _TONAL[name], value))
        elif name != "identity":
            matrix = torch.where(chosen[:, None], matrix_of(name, value, height, width), matrix)
            geometric |= chosen
    move = partial(affine, fill=fill, resampling=resampling)
    jobs.append(_Job(geometric, move, matrix))
    return _by_group(images, jobs) if images.device.type == "cpu" else _by_choice(images, jobs)


class _Job(NamedTuple):
    """An operation for the images where `chosen` (B,) is true, and its values for all (B, ...)."""

    chosen: Tensor
    operation: _Batched
    value: Tensor


def _by_group(images: Tensor, jobs: list[_Job]) -> Tensor:
    """Each operation on its own images, which are put into order at the end."""
    rest = ~torch.stack([job.chosen for job in jobs]).any(0)
    order, made = [rest.nonzero()[:, 0]], [images[rest]]
    for chosen, operation, value in jobs:
        index = chosen.nonzero()[:, 0]
        if len(index):
            order.append(index)
            made.append(operation(images.index_select(0, index), value.index_select(0, index)))
    return torch.cat(made).index_select(0, torch.cat(order).argsort())


def _by_choice(images: Tensor, jobs: list[_Job]) -> Tensor:
    """Each operation on all images, because to count its own would wait for the device."""
    out = images
    for chosen, operation, value in jobs:
        out = torch.where(per_image(chosen), operation(images, value), out)
    return out
