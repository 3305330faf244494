"""What the Triton kernels share: where a tile lies, and how it is changed; and two plain kernels.

A program handles a tile of positions by channels of one sample. Passes that read a map are in
:mod:`cnsn.kernels.tile_sums`. Those that write one make gain and shift of a channel in their
prologue, from (B, C) statistics: CrossNorm's (:mod:`cnsn.kernels.tile_exchange`) of its own and its
partner's, which a permutation finds; SelfNorm's (:mod:`cnsn.kernels.tile_gates`) of its own.
Gradients likewise. So between two passes over a map nothing runs but, where a batch norm needs the
whole batch, one kernel on (B, C) numbers.

`count` and `freedom` are the positions n of a box and max(n - 1, 1), as floats, which Triton does
not specialise on.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Numbers of a box: a kernel must hold for all of them.
BOX = ["top", "left", "height", "width", "chunk"]
STYLE_BOX = ["style_top", "style_left", "style_height", "style_width"]
# Of the maps handed over, what Triton must not specialise on when boxes change.
PART = ["size", "total"]


@triton.jit
def channels_of(channels, BLOCK_C: tl.constexpr):
    """This program's sample, its channels, and which of them are real."""
    blocks = tl.cdiv(channels, BLOCK_C)
    sample = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    return sample.to(tl.int64), c, c < channels


@triton.jit
def start_of(sample, c, sb, sc):
    """Where channels begin. A sample may have more elements than 32 bits count."""
    return sample * sb + c.to(tl.int64) * sc


@triton.jit
def place_of(p, map_width, step, top, left, width, BOXED: tl.constexpr):
    """Where position `p` of the box lies in its channel."""
    if BOXED:
        p = (top + p // width) * map_width + left + p % width
    return p.to(tl.int64) * step


@triton.jit
def _tile(sample, c, channels, positions, map_width, sb, sc, step, BLOCK_P: tl.constexpr):
    """Where this program's tile lies, what of it is real, and its rows and columns."""
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    place = start_of(sample, c, sb, sc)[None, :] + (p.to(tl.int64) * step)[:, None]
    mask = (p < positions)[:, None] & (c < channels)[None, :]
    return place, mask, p // map_width, p % map_width


@triton.jit
def _inside(row, column, top, left, height, width):
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return inside[:, None]


@triton.jit
def apply(
    x, y, sample, c, mean, gain, shift, channels, positions, map_width, sb, sc, step,
    top, left, height, width,
    CENTRED: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``gain * (x - mean) + shift`` in the box, `x` elsewhere; uncentred ``gain * x``."""
    place, mask, row, column = _tile(
        sample, c, channels, positions, map_width, sb, sc, step, BLOCK_P
    )
    value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
    if CENTRED:
        result = (value - mean[None, :]) * gain[None, :] + shift[None, :]
    else:
        result = value * gain[None, :]
    if BOXED:
        result = tl.where(_inside(row, column, top, left, height, width), result, value)
    tl.store(y + place, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def term(dmean, dstd, std, rest, at, real, count, freedom, RESTED: tl.constexpr):
    """Slope and offset of what the gradients of a channel's statistics add to that of the map."""
    slope, offset = dstd / (std * freedom), dmean / count
    if RESTED:
        offset -= slope * tl.load(rest + at, mask=real, other=0)
    return slope, offset


@triton.jit
def differentiate(
    x, dy, dx, sample, c, gain, mean, slope, offset, channels, positions, map_width, sb, sc, step,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``gain * dy + slope * (x - mean) + offset``."""
    differentiate_boxed(
        x, dy, dx, sample, c, gain, mean, slope, offset, mean, slope, offset,
        channels, positions, map_width, sb, sc, step,
        0, 0, 0, 0, 0, 0, 0, 0, False, False, BLOCK_P,
    )  # fmt: skip


@triton.jit
def differentiate_boxed(
    x, dy, dx, sample, c, gain, mean, slope, offset, style_mean, style_slope, style_offset,
    channels, positions, map_width, sb, sc, step,
    top, left, height, width, style_top, style_left, style_height, style_width,
    BOXED: tl.constexpr, STYLED: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``gain * dy`` and a term in the box, `dy` elsewhere; plus the style's term in its own."""
    place, mask, row, column = _tile(
        sample, c, channels, positions, map_width, sb, sc, step, BLOCK_P
    )
    value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
    grad = tl.load(dy + place, mask=mask, other=0).to(tl.float32)
    result = slope[None, :] * (value - mean[None, :]) + gain[None, :] * grad + offset[None, :]
    if BOXED:
        result = tl.where(_inside(row, column, top, left, height, width), result, grad)
    if STYLED:
        style = style_slope[None, :] * (value - style_mean[None, :]) + style_offset[None, :]
        inside = _inside(row, column, style_top, style_left, style_height, style_width)
        result += tl.where(inside, style, 0)
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=BOX)
def affine(
    x, y, mean, gain, shift, channels, positions, map_width, sb, sc, step,
    top, left, height, width,
    CENTRED: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c, real = channels_of(channels, BLOCK_C)
    at = sample * channels + c
    apply(
        x, y, sample, c, tl.load(mean + at, mask=real, other=0),
        tl.load(gain + at, mask=real, other=0), tl.load(shift + at, mask=real, other=0),
        channels, positions, map_width, sb, sc, step, top, left, height, width,
        CENTRED, BOXED, BLOCK_P,
    )  # fmt: skip


@triton.jit
def gradient(
    x, dy, dx, gain, mean, slope, offset, channels, positions, map_width, sb, sc, step,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    sample, c, real = channels_of(channels, BLOCK_C)
    at = sample * channels + c
    differentiate(
        x, dy, dx, sample, c, tl.load(gain + at, mask=real, other=0),
        tl.load(mean + at, mask=real, other=0), tl.load(slope + at, mask=real, other=0),
        tl.load(offset + at, mask=real, other=0),
        channels, positions, map_width, sb, sc, step, BLOCK_P,
    )  # fmt: skip
