"""The layers' four kernels on CUDA, in Triton: one launch reduces, one applies, each way.

A program handles a tile of positions by channels of one sample, whatever the layout: strides of
samples, channels and positions say where an element lies. Maps are dense, so that Triton sees what
lies side by side and loads 16 bytes at a time. Boxes are ordinary numbers that it must not
specialise on, so a new box needs no compilation. Sums of squares merge tiles around their own means
(Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances"), in float32.

The functions are those of :mod:`cnsn.kernels.cpu`; the arithmetic is tested with Triton's
interpreter.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cnsn.kernels.regions import Box, Term, full_box, is_channels_last, positions

__all__ = ["affine", "gradient", "moments", "products"]

# Elements of a tile, and how many programs keep a GPU busy.
TILE = 2048
PROGRAMS = 2048
# Of a grid's second dimension.
GRID = 65535

BOX = ["top", "left", "height", "width", "chunk"]
STYLE_BOX = ["style_top", "style_left", "style_height", "style_width"]


@triton.jit
def _channels(channels, BLOCK_C: tl.constexpr):
    """Sample and channels of this program, and where their (B, C) numbers lie."""
    blocks = tl.cdiv(channels, BLOCK_C)
    sample = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    return sample.to(tl.int64), c


@triton.jit
def _place(p, map_width, step, top, left, width, BOXED: tl.constexpr):
    """Where position `p` of the box lies in its channel."""
    if BOXED:
        return ((top + p // width) * map_width + left + p % width) * step
    return p * step


@triton.jit
def _column(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0)[None, :]


@triton.jit(do_not_specialize=BOX)
def _moments(
    x, mean_out, rest_out, square_out, channels, positions, map_width, sb, sc, step,
    top, left, height, width, chunk,
    BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    base = x + sample * sb + c * sc
    # Whole tiles, and one bound for all of them, so that Triton knows what is aligned.
    start = tl.program_id(1) * chunk * BLOCK_P
    total = height * width if BOXED else positions
    stop = tl.minimum(start + chunk * BLOCK_P, total)
    # Deviations from some value of the channel: what is summed is then small where the mean is not.
    first = tl.load(base + (top * map_width + left) * step, mask=real, other=0).to(tl.float32)
    mean = tl.zeros([BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_C], tl.float32)
    for position in range(start, stop, BLOCK_P):
        p = position + tl.arange(0, BLOCK_P)
        place = _place(p, map_width, step, top, left, width, BOXED)
        mask = (p < total)[:, None] & real[None, :]
        value = tl.load(base[None, :] + place[:, None], mask=mask, other=0).to(tl.float32)
        value = tl.where(mask, value - first[None, :], 0)
        before = (position - start).to(tl.float32)
        here = tl.minimum(total - position, BLOCK_P).to(tl.float32)
        tile_mean = tl.sum(value, 0) / here
        deviation = tl.where(mask, value - tile_mean[None, :], 0)
        way = tile_mean - mean
        mean += way * (here / (before + here))
        square += tl.sum(deviation * deviation, 0) + way * way * (before * here / (before + here))
    at = (tl.program_id(1) * (tl.num_programs(0) // tl.cdiv(channels, BLOCK_C)) + sample) * channels
    rounded = first + mean
    tl.store(mean_out + at + c, rounded, mask=real)
    tl.store(rest_out + at + c, (first - rounded) + mean, mask=real)
    tl.store(square_out + at + c, square, mask=real)


@triton.jit(do_not_specialize=BOX)
def _products(
    x, dy, mean, weighted_out, plain_out, channels, positions, map_width, sb, sc, step,
    top, left, height, width, chunk,
    BOXED: tl.constexpr, CENTRED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    offset = sample * sb + c * sc
    # Whole tiles, and one bound for all of them, so that Triton knows what is aligned.
    start = tl.program_id(1) * chunk * BLOCK_P
    total = height * width if BOXED else positions
    stop = tl.minimum(start + chunk * BLOCK_P, total)
    weighted = tl.zeros([BLOCK_C], tl.float32)
    plain = tl.zeros([BLOCK_C], tl.float32)
    if CENTRED:
        centre = _column(mean, sample * channels + c, real)
    for position in range(start, stop, BLOCK_P):
        p = position + tl.arange(0, BLOCK_P)
        place = _place(p, map_width, step, top, left, width, BOXED)
        place = offset[None, :] + place[:, None]
        mask = (p < total)[:, None] & real[None, :]
        value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
        grad = tl.load(dy + place, mask=mask, other=0).to(tl.float32)
        if CENTRED:
            value -= centre
            plain += tl.sum(grad, 0)
        weighted += tl.sum(grad * value, 0)
    at = (tl.program_id(1) * (tl.num_programs(0) // tl.cdiv(channels, BLOCK_C)) + sample) * channels
    tl.store(weighted_out + at + c, weighted, mask=real)
    if CENTRED:
        tl.store(plain_out + at + c, plain, mask=real)


@triton.jit(do_not_specialize=BOX)
def _affine(
    x, y, mean, gain, shift, channels, positions, map_width, sb, sc, step,
    top, left, height, width,
    CENTRED: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    row, column = p // map_width, p % map_width
    place = (sample * sb + c * sc)[None, :] + (p * step)[:, None]
    mask = (p < positions)[:, None] & real[None, :]
    at = sample * channels + c
    value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
    result = value
    if CENTRED:
        result -= _column(mean, at, real)
    result *= _column(gain, at, real)
    if CENTRED:
        result += _column(shift, at, real)
    if BOXED:
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        result = tl.where(inside[:, None], result, value)
    tl.store(y + place, result.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=BOX + STYLE_BOX)
def _gradient(
    x, dy, dx, gain, mean, slope, offset, style_mean, style_slope, style_offset,
    channels, positions, map_width, sb, sc, step,
    top, left, height, width, style_top, style_left, style_height, style_width,
    BOXED: tl.constexpr, STYLED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    row, column = p // map_width, p % map_width
    place = (sample * sb + c * sc)[None, :] + (p * step)[:, None]
    mask = (p < positions)[:, None] & real[None, :]
    at = sample * channels + c
    value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
    grad = tl.load(dy + place, mask=mask, other=0).to(tl.float32)
    result = _column(slope, at, real) * (value - _column(mean, at, real))
    result += _column(gain, at, real) * grad + _column(offset, at, real)
    if BOXED:
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        result = tl.where(inside[:, None], result, grad)
    if STYLED:
        inside = (row >= style_top) & (row < style_top + style_height)
        inside = inside & (column >= style_left) & (column < style_left + style_width)
        style = _column(style_slope, at, real) * (value - _column(style_mean, at, real))
        style += _column(style_offset, at, real)
        result += tl.where(inside[:, None], style, 0)
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=mask)


class _Launch:
    """Tiles and grids for a map. Nothing in it but the grid depends on the box."""

    def __init__(self, x: Tensor, box: Box | None) -> None:
        self.x, self.box = x, full_box(x) if box is None else box
        _, channels, height, width = x.shape
        count, last = height * width, is_channels_last(x)
        if last:
            block_c = min(triton.next_power_of_2(channels), 64)
            block_p = min(triton.next_power_of_2(count), TILE // block_c)
        else:
            block_p = min(triton.next_power_of_2(count), TILE)
            block_c = min(triton.next_power_of_2(channels), TILE // block_p)
        while math.ceil(count / block_p) > GRID:
            block_p *= 2
        # Strides of samples, channels and positions.
        strides = (channels * count, *((1, channels) if last else (count, 1)))
        self.where = (channels, count, width, *strides)
        self.flags: dict[str, Any] = {
            "BOXED": box is not None,
            "BLOCK_P": block_p,
            "BLOCK_C": block_c,
        }
        self.rows = len(x) * math.ceil(channels / block_c)
        self.tiles = math.ceil(count / block_p)
        # Long maps of few channels are split, and the parts put together by the caller.
        self.parts = max(1, min(PROGRAMS // self.rows, self.tiles // 4))
        # In tiles.
        self.chunk = math.ceil(positions(x, box) / (self.parts * block_p))

    def numbers(self) -> Tensor:
        """(parts, B, C)"""
        return torch.empty(self.parts, *self.x.shape[:2], dtype=torch.float32, device=self.x.device)

    def reduce(self, kernel: Any, *args: Any, **flags: Any) -> None:
        with _on(self.x):
            kernel[(self.rows, self.parts)](
                *args, *self.where, *self.box, self.chunk, **flags, **self.flags
            )

    def apply(self, kernel: Any, *args: Any, boxes: tuple[int, ...], **flags: Any) -> None:
        with _on(self.x):
            kernel[(self.rows, self.tiles)](*args, *self.where, *boxes, **flags, **self.flags)


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def moments(x: Tensor, box: Box | None) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, box)
    mean, rest, squares = (launch.numbers() for _ in range(3))
    launch.reduce(_moments, x, mean, rest, squares)
    if launch.parts == 1:
        return mean[0], rest[0], squares[0]
    n = positions(x, box)
    chunk = launch.chunk * launch.flags["BLOCK_P"]
    starts = torch.arange(launch.parts, device=x.device) * chunk
    counts = (n - starts).clamp(0, chunk).double()[:, None, None]
    # A part behind the box's end holds nothing, and its mean is some value of the channel.
    exact = mean.double() + rest.double()
    whole = (exact * counts).sum(0) / n
    squares = (squares + counts * (exact - whole).square()).sum(0).float()
    mean = whole.float()
    return mean, (whole - mean).float(), squares


def affine(
    x: Tensor, box: Box | None, mean: Tensor | None, gain: Tensor, shift: Tensor | None
) -> Tensor:
    launch, y = _Launch(x, box), torch.empty_like(x)
    centred = mean is not None
    args = (x, y, mean if centred else gain, gain, shift if centred else gain)
    launch.apply(_affine, *args, boxes=launch.box, CENTRED=centred)
    return y


def products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    launch = _Launch(x, box)
    weighted = launch.numbers()
    if mean is None:
        launch.reduce(_products, x, dy, weighted, weighted, weighted, CENTRED=False)
        return weighted.sum(0), None
    plain = launch.numbers()
    launch.reduce(_products, x, dy, mean, weighted, plain, CENTRED=True)
    return weighted.sum(0), plain.sum(0)


def gradient(x: Tensor, dy: Tensor, gain: Tensor, content: Term, style: Term | None) -> Tensor:
    launch, dx = _Launch(x, content.box), torch.empty_like(x)
    other = content if style is None else style
    boxes = (*launch.box, *(other.box or full_box(x)))
    numbers = (*content[1:], *other[1:])
    launch.apply(_gradient, x, dy, dx, gain, *numbers, boxes=boxes, STYLED=style is not None)
    return dx
