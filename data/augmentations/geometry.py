"""Pillow's affine transforms and a square cut-out, on batches of uint8 tensors (B, 3, H, W).

Every image has a matrix of its own. Results are Pillow's: nearest pixels exactly, interpolated ones
up to the last bit. See :mod:`data.augmentations.operations`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentations.tones import cut_off

__all__ = ["Geometric", "Resampling", "affine", "cutout", "matrix_of"]

Geometric = Literal["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
Resampling = Literal["nearest", "bilinear"]


def affine(
    images: Tensor, matrix: Tensor, *, fill: int = 0, resampling: Resampling = "bilinear"
) -> Tensor:
    """Sample each image at affine coordinates.

    Args:
        images: uint8 (B, 3, H, W).
        matrix: (B, 6), Pillow's (a, b, c, d, e, f): the pixel with centre (x, y) shows the input
            at (a x + b y + c, d x + e y + f), in pixels from the upper left corner.
        fill: of what comes from outside the image.
        resampling: "nearest", or "bilinear", which repeats the outermost pixels by half of one.
    """
    sample = _nearest if resampling == "nearest" else _bilinear
    sampled, inside = sample(images, matrix.float().view(-1, 2, 3, 1, 1))
    inside = inside[:, None]
    # Arithmetic instead of `where`, which is several times slower on bytes.
    return sampled * inside + (~inside).to(torch.uint8) * fill


def _nearest(images: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The sampled images, and (B, H, W) where they come from inside; in 16 fractional bits."""
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    y = torch.arange(height, dtype=torch.int32, device=images.device)[:, None]
    by_x, by_y, offset = matrix.unbind(2)
    offset = offset + 0.5 * (by_x + by_y)
    # Clamped, so that an image moved far away does not come back by overflow.
    offset = offset.clamp(-8192, 8192)
    by_x, by_y, offset = ((p * 65536 + 0.5).floor().int() for p in (by_x, by_y, offset))
    columns, rows = ((by_x * x + (by_y * y + offset)) >> 16).unbind(1)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    place = rows.clamp_(0, height - 1) * width + columns.clamp_(0, width - 1)
    place = place.flatten(1).long()[:, None].expand(-1, 3, -1)
    return images.flatten(2).gather(2, place).view_as(images), inside


def _bilinear(images: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`_nearest`; the outermost pixels repeat."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = (torch.arange(height, device=images.device) + 0.5)[:, None]
    by_x, by_y, offset = matrix.unbind(2)
    # Not a matrix product, which may be of low precision.
    at = by_x * x + (by_y * y + offset)
    columns, rows = at[:, 0], at[:, 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns.mul_(2 / width).sub_(1)
    rows.mul_(2 / height).sub_(1)
    grid = at.permute(0, 2, 3, 1)
    values = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return cut_off(values), inside


def matrix_of(name: str, value: Tensor, height: int, width: int) -> Tensor:
    """The (B, 6) matrices of one of the five geometric operations."""
    one, zero = torch.ones_like(value), torch.zeros_like(value)
    if name == "rotate":  # counter-clockwise about the centre
        cos, sin, x, y = value.deg2rad().cos(), value.deg2rad().sin(), width / 2, height / 2
        parts = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    else:
        parts = {
            "shear_x": (one, value, zero, zero, one, zero),
            "shear_y": (one, zero, zero, value, one, zero),
            "translate_x": (one, zero, value, zero, one, zero),
            "translate_y": (one, zero, zero, zero, one, value),
        }[name]
    return torch.stack(parts, 1)


def cutout(images: Tensor, row: Tensor, column: Tensor, *, size: int, fill: int = 127) -> Tensor:
    """Fill a square of side `size` about the pixel (row, column), cut off at the image's edge.

    Args:
        images: uint8 (B, 3, H, W).
        row, column: integer (B,). The square is [row - size // 2, row + size // 2) and so on, as
            in DeVries & Taylor 2017, https://github.com/uoguelph-mlrg/Cutout
        fill: 127, a middle grey, is what zero is once the image is normalised.
    """
    height, width = images.shape[2:]
    half = size // 2
    y = torch.arange(height, device=images.device) - row[:, None]
    x = torch.arange(width, device=images.device) - column[:, None]
    rows, columns = (y >= -half) & (y < half), (x >= -half) & (x < half)
    square = (rows[:, :, None] & columns[:, None])[:, None]
    return images * ~square + square.to(torch.uint8) * fill
