"""Pillow's image operations on batches of uint8 tensors, each image with parameters of its own.

Images are uint8 (B, 3, H, W) on any device, parameters (B,) in Pillow's units; nothing waits for
the device. Every operation gives what Pillow 9 and later give, up to the last bit of a rounding:

    ImageOps:     autocontrast, equalize, invert, posterize, solarize
    ImageEnhance: brightness, color, contrast, sharpness  (1 changes nothing)
    Image:        affine, and through it rotate, shear_x, shear_y, translate_x, translate_y
    ImageDraw:    cutout

`apply_operations` gives each image of a batch an operation of its own.

They are the operations of AugMix (https://github.com/google-research/augmix), of RandAugment as
FixMatch uses it (https://github.com/google-research/fixmatch) and of AutoAugment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "OPERATIONS",
    "Operation",
    "Resampling",
    "affine",
    "apply_operations",
    "autocontrast",
    "brightness",
    "color",
    "contrast",
    "cutout",
    "equalize",
    "invert",
    "posterize",
    "sharpness",
    "solarize",
]

Resampling = Literal["nearest", "bilinear"]
Operation = Literal[
    "identity",
    "autocontrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_Batched = Callable[[Tensor, Tensor], Tensor]  # of the images and a value for each


def _per_image(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def _cut(values: Tensor) -> Tensor:
    """float in [0, 255] to uint8 without the fraction, as in C; a hair below a whole number is it.

    `values` is used up. Through int16 because a direct conversion is not vectorised on CPU.
    """
    return values.add_(1 / 256).short().to(torch.uint8)


# ------------------------------------------------------------------------------ tones, by channel


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to [0, 255]; a channel of one value stays."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    scale = torch.where(flat, 1.0, 255 / span.clamp_min(1))
    return _cut((images.float() - low.masked_fill(flat, 0.0)) * scale)


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
    return images & _per_image(256 - (1 << dropped)).to(torch.uint8)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values at and above `threshold`; 256 inverts none."""
    # Exclusive or with 255 inverts a byte.
    return images ^ (images >= _per_image(threshold).ceil().short()).to(torch.uint8) * 255


# ----------------------------------------------- enhancements: a blend with a degenerate image


def _blend(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    mixed = degenerate + (images.float() - degenerate) * _per_image(factor)
    return _cut(mixed.clamp_(0, 255))


def _grey(images: Tensor) -> Tensor:
    """float32 (B, 1, H, W): ITU-R BT.601 luma in Pillow's integers."""
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).float()[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _cut((images * _per_image(factor)).clamp_(0, 255))


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


# --------------------------------------------------------------------------------------- geometry


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
    # Clamped, so that a far coordinate stays one and does not overflow.
    by_x, by_y, offset = (
        (part * 65536 + 0.5).floor().clamp(-(2**28), 2**28).int() for part in (by_x, by_y, offset)
    )
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
    return _cut(values), inside


def _matrix(name: str, value: Tensor, height: int, width: int) -> Tensor:
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


# ------------------------------------------------------------------- another operation each image

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
            matrix = torch.where(chosen[:, None], _matrix(name, value, height, width), matrix)
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
        out = torch.where(_per_image(chosen), operation(images, value), out)
    return out
