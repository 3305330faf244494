"""Crops, flips and colour jitter of a batch, with parameters of each image's own."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.images import by_channel
from data.randomness import sample_uniform

__all__ = [
    "Border",
    "centre_crop",
    "crop_and_flip",
    "flip_and_shift",
    "jitter_colours",
]

# Aspect ratios of a random resized crop, as torchvision draws them.
RATIO = (3 / 4, 4 / 3)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle (B, C, size, size) of `images`."""
    top, left = ((side - size) // 2 for side in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]


def crop_and_flip(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    size: int,
    min_area: float = 1.0,
    flip: bool = True,
) -> Tensor:
    """A random crop of each image, flipped with probability 1/2, per sample, in batch.

    Args:
        images: uint8 (B, C, H, W).
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run and step.
        size: height and width of the crop.
        min_area: 1 crops `size` x `size` pixels; below it, a box of an area uniform in
            [min_area, 1] of the image and an aspect ratio in [3/4, 4/3] is resized to them, as by
            torchvision's RandomResizedCrop (bilinear; a side too long is cut, not drawn again).
        flip: whether any is flipped.

    Returns:
        uint8 (B, C, size, size).
    """
    batch, _, height, width = images.shape
    uniform = sample_uniform(seed, index.to(images.device), 5)
    if min_area < 1:
        area = (min_area + (1 - min_area) * uniform[:, 0]) * height * width
        low, high = (math.log(ratio) for ratio in RATIO)
        ratio = (low + (high - low) * uniform[:, 1]).exp()
        box_height = (area / ratio).sqrt().round().clamp(1, height)
        box_width = (area * ratio).sqrt().round().clamp(1, width)
    else:
        box_height = box_width = torch.full_like(uniform[:, 0], size)
    top = (uniform[:, 2] * (height - box_height + 1)).floor()
    left = (uniform[:, 3] * (width - box_width + 1)).floor()
    direction = torch.where(uniform[:, 4] < (0.5 if flip else 0.0), -1.0, 1.0)
    rows = _positions(top, box_height, torch.ones_like(direction), size, height)
    columns = _positions(left, box_width, direction, size, width)
    grid = torch.stack(
        [
            columns[:, None, :].expand(batch, size, size),
            rows[:, :, None].expand(batch, size, size),
        ],
        dim=-1,
    )
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8)


def _positions(start: Tensor, length: Tensor, flip: Tensor, size: int, full: int) -> Tensor:
    """Where `size` outputs lie in a side of `full` pixels: (B, size) in grid_sample's [-1, 1]."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size - 0.5
    centre = start + length / 2
    pixels = centre[:, None] + flip[:, None] * steps * length[:, None]
    return 2 * pixels / full - 1


Border = Literal["zeros", "reflect"]


# Of ITU-R BT.601, as in PIL and torchvision.
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


def flip_and_shift(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    padding: int = 4,
    flip: bool = True,
    border: Border = "zeros",
) -> Tensor:
    """Random crop of the padded image and random horizontal flip, per sample, in batch.

    Args:
        images: (B, C, H, W) of any dtype.
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run and epoch.
        padding: pixels on every side before the crop of the original size.
        flip: flip half of the images.
        border: what the padding is: zeros, or the image reflected about its outermost pixels.

    Returns:
        Of the shape, dtype and device of `images`.
    """
    batch, _, height, width = images.shape
    uniform = sample_uniform(seed, index.to(images.device), 3)
    shift = (uniform[:, :2] * (2 * padding + 1)).long()
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if flip:
        columns = torch.where(uniform[:, 2:] < 0.5, columns.flip(1), columns)
    rows = torch.arange(height, device=images.device) + shift[:, :1]
    columns = columns + shift[:, 1:]
    if border == "reflect":
        if padding >= min(height, width):
            raise ValueError(
                f"Expected `padding` to be less than the image's {min(height, width)} pixels where "
                f"the border is reflected, but got {padding}."
            )
        rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
        padded = images
    else:
        padded = torch.nn.functional.pad(images, [padding] * 4)
    place = rows[:, :, None] * padded.shape[-1] + columns[:, None, :]
    place = place.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return padded.flatten(2).gather(2, place).view_as(images)


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) as those of the mirrored image, its edge not doubled."""
    last = size - 1
    return last - (last - position.abs()).abs()


def jitter_colours(images: Tensor, index: Tensor, *, seed: int, strength: float) -> Tensor:
    """Random brightness, then random contrast, per sample, in batch.

    Both factors are uniform in [1 - strength, 1 + strength], as torchvision's ColorJitter draws
    them; contrast mixes with the image's mean grey.

    Args:
        images: uint8 (B, 3, H, W).
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run and epoch.
        strength: in [0, 1]; 0 changes nothing.

    Returns:
        uint8, of the shape and device of `images`.
    """
    if strength == 0:
        return images
    uniform = sample_uniform(seed, index.to(images.device), 2)
    factors = (1 + strength * (2 * uniform - 1))[:, :, None, None, None]
    bright = (images * factors[:, 0]).clamp(0, 255).floor()
    luma = bright * by_channel(GREY_WEIGHTS, images.device)
    grey = luma.sum(1, keepdim=True).floor().mean((2, 3), keepdim=True)
    return (grey + (bright - grey) * factors[:, 1]).clamp(0, 255).to(torch.uint8)
