"""Triton kernels that read a map and leave (B, C) numbers: statistics, and sums for a gradient.

A long map of few channels is divided among programs. What they find of its parts is put together
by :func:`merge`, or simply added.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cnsn.kernels.tiles import BOX, PART, channels_of, place_of, start_of


@triton.jit(do_not_specialize=BOX)
def moments(
    x, mean_out, std_out, rest_out, channels, positions, map_width, sb, sc, step,
    top, left, height, width, chunk, freedom, eps,
    WHOLE: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean, std and the mean's rounding error; of a part the sum of squares instead of the std."""
    sample, c, real = channels_of(channels, BLOCK_C)
    base = x + start_of(sample, c, sb, sc)
    # Whole tiles, and one bound for all of them, so that Triton knows what is aligned.
    start = tl.program_id(1) * chunk * BLOCK_P
    total = height * width if BOXED else positions
    stop = tl.minimum(start + chunk * BLOCK_P, total)
    # Deviations from some value of the channel: what is summed is then small where the mean is not.
    corner = (top * map_width + left).to(tl.int64) * step
    first = tl.load(base + corner, mask=real, other=0).to(tl.float32)
    mean = tl.zeros([BLOCK_C], tl.float32)
    square = tl.zeros([BLOCK_C], tl.float32)
    for position in range(start, stop, BLOCK_P):
        p = position + tl.arange(0, BLOCK_P)
        place = place_of(p, map_width, step, top, left, width, BOXED)
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
    if WHOLE:
        square = tl.sqrt_rn(square / freedom + eps)
    tl.store(std_out + at + c, square, mask=real)


@triton.jit(do_not_specialize=PART)
def merge(
    means, squares, rests, mean_out, std_out, rest_out, numbers, parts, size, total, freedom, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Puts together parts of `size` positions each, of which the last may hold fewer, or none."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = at < numbers
    first = tl.load(means + at, mask=real, other=0)
    first_rest = tl.load(rests + at, mask=real, other=0)
    before = 0.0
    way = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        place = part * numbers + at
        here = tl.maximum(tl.minimum(total - part * size, size), 0) * 1.0
        # Means of parts are near one another, so that their difference is exact.
        mean = tl.load(means + place, mask=real, other=0) - first
        mean += tl.load(rests + place, mask=real, other=0) - first_rest
        share = here / tl.maximum(before + here, 1.0)
        step = mean - way
        way += step * share
        square += tl.load(squares + place, mask=real, other=0) + step * step * (before * share)
        before += here
    way += first_rest
    mean = first + way
    tl.store(mean_out + at, mean, mask=real)
    tl.store(rest_out + at, (first - mean) + way, mask=real)
    tl.store(std_out + at, tl.sqrt_rn(square / freedom + eps), mask=real)


@triton.jit(do_not_specialize=BOX)
def products(
    x, dy, mean, weighted_out, plain_out, channels, positions, map_width, sb, sc, step,
    top, left, height, width, chunk,
    CENTRED: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of ``dy * (x - mean)`` and ``dy``; without a mean of ``dy * x`` alone."""
    sample, c, real = channels_of(channels, BLOCK_C)
    offset = start_of(sample, c, sb, sc)
    # Whole tiles, and one bound for all of them, so that Triton knows what is aligned.
    start = tl.program_id(1) * chunk * BLOCK_P
    total = height * width if BOXED else positions
    stop = tl.minimum(start + chunk * BLOCK_P, total)
    weighted = tl.zeros([BLOCK_C], tl.float32)
    plain = tl.zeros([BLOCK_C], tl.float32)
    if CENTRED:
        centre = tl.load(mean + sample * channels + c, mask=real, other=0)[None, :]
    for position in range(start, stop, BLOCK_P):
        p = position + tl.arange(0, BLOCK_P)
        place = place_of(p, map_width, step, top, left, width, BOXED)
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
