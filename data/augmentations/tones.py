"""Pillow's ImageOps and ImageEnhance on batches of uint8 tensors (B, 3, H, W), on their device.

Parameters are (B,), one an image, in Pillow's units. Results are Pillow's up to the last bit of a
rounding. See :mod:`data.augmentations.operations`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "cut_off",
    "equalize",
    "invert",
    "per_image",
    "posterize",
    "sharpness",
    "solarize",
]


def per_image(value: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return value.view(-1, 1, 1, 1)


def cut_off(values: Tensor) -> Tensor:
    """float in [0, 255] to uint8 without the fraction, as in C; a hair below a whole number is it.

    `values` is used up. Through int16 because a direct conversion is not vectorised on CPU.
    """
    return values.add_(1 / 256).short().to(torch.uint8)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to [0, 255]; a channel of one value stays."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    scale = torch.where(flat, 1.0, 255 / span.clamp_min(1))
    return cut_off((images.float() - low.masked_fill(flat, 0.0)) * scale)


def equalize(images: Tensor) -> Tensor:
    """Flatten each channel's histogram; a channel of too few different values stays."""
    values = images.flatten(2).flatten(0, 1).long()  # (B * 3, H * W)
    counts = torch.zeros(len(values), 256, dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=torch.int32))
    below = counts.cumsum(1, dtype=torch.int32) - counts
    step = below.gather(1, values.amax(1, keepdim=True)) // 255
    table = (below + step // 2) // step.clamp_min(1)
    identity = torch.arange(256, dtype=torch.int32, device=images.device)
    table = torch.where(step == 0, identity, table.clamp_max(255)).to(torch.uint8)
    return table.gather(1, values).view_as(images)


def invert(images: Tensor) -> Tensor:
    """The negative."""
    return 255 - images


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits, from 0 to 8, of every value."""
    dropped = (8 - bits.int()).clamp(0, 8)
    return images & per_image(256 - (1 << dropped)).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at and above `threshold`; 256 inverts none."""
    # Exclusive or with 255 inverts a byte.
    return images ^ (images >= per_image(threshold).ceil().short()).to(torch.uint8) * 255


# ----------------------------------------------- enhancements: a blend with a degenerate image


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    mixed = degenerate + (images.float() - degenerate) * per_image(factor)
    return cut_off(mixed.clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """float32 (B, 1, H, W): ITU-R BT.601 luma in Pillow's integers."""
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).float()[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return cut_off((images * per_image(factor)).clamp_(0, 255))


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blend(_grey(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey."""
    mean = _grey(images).mean((2, 3), keepdim=True)
    return _blend((mean + 0.5).floor(), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a smoothed image, whose outermost pixels are the image's own."""
    smooth = images.float()
    if min(images.shape[2:]) >= 3:
        lines = smooth[..., :-2] + smooth[..., 1:-1] + smooth[..., 2:]
        nine = lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:]
        inner = smooth[:, :, 1:-1, 1:-1]
        inner.copy_(((nine + 4 * inner) / 13 + 0.5).floor())
    return _blend(smooth, images, factor)
