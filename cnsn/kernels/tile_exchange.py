"""CrossNorm in Triton: gains and shifts are made of a channel's and its partner's statistics."""

from __future__ import annotations

import triton
import triton.language as tl

from cnsn.kernels.tiles import BOX, STYLE_BOX, apply, channels_of, differentiate_boxed, term


@triton.jit
def _partner(order, sample, c, channels, real, ACROSS: tl.constexpr):
    """Where the (B, C) numbers of these channels' styles lie."""
    if ACROSS:
        partner = tl.load(order + sample) * channels + c
    else:
        partner = sample * channels + tl.load(order + c, mask=real, other=0)
    return partner


@triton.jit(do_not_specialize=BOX)
def exchange(
    x, y, order, mean, std, rest, style_mean, style_std,
    channels, positions, map_width, sb, sc, step, top, left, height, width,
    ACROSS: tl.constexpr, RESTED: tl.constexpr,
    BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """CrossNorm: gain and shift are made of the channel's and its partner's statistics."""
    sample, c, real = channels_of(channels, BLOCK_C)
    at = sample * channels + c
    partner = _partner(order, sample, c, channels, real, ACROSS)
    gain = tl.load(style_std + partner, mask=real, other=1)
    gain /= tl.load(std + at, mask=real, other=1)
    shift = tl.load(style_mean + partner, mask=real, other=0)
    if RESTED:
        shift -= gain * tl.load(rest + at, mask=real, other=0)
    apply(
        x, y, sample, c, tl.load(mean + at, mask=real, other=0), gain, shift,
        channels, positions, map_width, sb, sc, step, top, left, height, width,
        True, BOXED, BLOCK_P,
    )  # fmt: skip


@triton.jit
def _scaled(weighted, plain, std, rest, at, mask, RESTED: tl.constexpr):
    """The sum of `dy`, and that of ``dy * (x - mean) / std``."""
    total = tl.load(plain + at, mask=mask, other=0)
    scaled = tl.load(weighted + at, mask=mask, other=0)
    if RESTED:
        scaled -= total * tl.load(rest + at, mask=mask, other=0)
    return total, scaled / tl.load(std + at, mask=mask, other=1)


@triton.jit(do_not_specialize=BOX + STYLE_BOX)
def exchange_gradient(
    x, dy, dx, order, takers, starts, weighted, plain,
    mean, std, rest, style_mean, style_std, style_rest,
    count, freedom, style_count, style_freedom,
    channels, positions, map_width, sb, sc, step,
    top, left, height, width, style_top, style_left, style_height, style_width,
    ACROSS: tl.constexpr, RESTED: tl.constexpr, STYLED: tl.constexpr,
    BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """CrossNorm: a channel's statistics act on itself, and on those that take its style."""
    sample, c, real = channels_of(channels, BLOCK_C)
    at = sample * channels + c
    centre = tl.load(mean + at, mask=real, other=0)
    own_std = tl.load(std + at, mask=real, other=1)
    gain = tl.load(
        style_std + _partner(order, sample, c, channels, real, ACROSS), mask=real, other=1
    )
    gain /= own_std
    total, scaled = _scaled(weighted, plain, std, rest, at, real, RESTED)
    slope, offset = term(
        -gain * total, -gain * scaled, own_std, rest, at, real, count, freedom, RESTED
    )
    # One taker where `order` is a permutation; a partner that was asked for may have any number.
    which = sample + c * 0 if ACROSS else c
    taker = tl.load(starts + which, mask=real, other=0)
    stop = tl.load(starts + which + 1, mask=real, other=0)
    style_dmean = tl.zeros([BLOCK_C], tl.float32)
    style_dstd = tl.zeros([BLOCK_C], tl.float32)
    for _ in range(tl.max(stop - taker)):
        mask = real & (taker < stop)
        who = tl.load(takers + taker, mask=mask, other=0)
        where = who * channels + c if ACROSS else sample * channels + who
        its_total, its_scaled = _scaled(weighted, plain, std, rest, where, mask, RESTED)
        style_dmean += its_total
        style_dstd += its_scaled
        taker += 1
    style_centre = tl.load(style_mean + at, mask=real, other=0)
    style_slope, style_offset = term(
        style_dmean, style_dstd, tl.load(style_std + at, mask=real, other=1),
        style_rest, at, real, style_count, style_freedom, RESTED,
    )  # fmt: skip
    if not STYLED:
        slope += style_slope
        offset += style_offset
    differentiate_boxed(
        x, dy, dx, sample, c, gain, centre, slope, offset, style_centre, style_slope, style_offset,
        channels, positions, map_width, sb, sc, step,
        top, left, height, width, style_top, style_left, style_height, style_width,
        BOXED, STYLED, BLOCK_P,
    )  # fmt: skip
