"""The Triton kernels: statistics, sums for a gradient, application, gradient; see gpu.py.

Those that apply make gain and shift of a channel in their prologue, from (B, C) statistics: for
CrossNorm its own and its partner's, which a permutation finds; for SelfNorm the gate of its own.
Gradients likewise. So between two passes over a map nothing runs but, where a batch norm needs the
whole batch, one kernel on (B, C) numbers.

A program handles a tile of positions by channels of one sample. `count` and `freedom` are the
positions n of a box and max(n - 1, 1), as floats, which Triton does not specialise on.
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
def _channels(channels, BLOCK_C: tl.constexpr):
    """Sample and channels of this program, and where their (B, C) numbers lie."""
    blocks = tl.cdiv(channels, BLOCK_C)
    sample = tl.program_id(0) // blocks
    c = (tl.program_id(0) % blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    return sample.to(tl.int64), c


@triton.jit
def _start(sample, c, sb, sc):
    """Where channels begin. A sample may have more elements than 32 bits count."""
    return sample * sb + c.to(tl.int64) * sc


@triton.jit
def _place(p, map_width, step, top, left, width, BOXED: tl.constexpr):
    """Where position `p` of the box lies in its channel."""
    if BOXED:
        p = (top + p // width) * map_width + left + p % width
    return p.to(tl.int64) * step


@triton.jit(do_not_specialize=BOX)
def moments(
    x, mean_out, std_out, rest_out, channels, positions, map_width, sb, sc, step,
    top, left, height, width, chunk, freedom, eps,
    WHOLE: tl.constexpr, BOXED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean, std and the mean's rounding error; of a part the sum of squares instead of the std."""
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    base = x + _start(sample, c, sb, sc)
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
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    offset = _start(sample, c, sb, sc)
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


@triton.jit
def _tile(sample, c, channels, positions, map_width, sb, sc, step, BLOCK_P: tl.constexpr):
    """Where this program's tile lies, what of it is real, and its rows and columns."""
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    place = _start(sample, c, sb, sc)[None, :] + (p.to(tl.int64) * step)[:, None]
    mask = (p < positions)[:, None] & (c < channels)[None, :]
    return place, mask, p // map_width, p % map_width


@triton.jit
def _inside(row, column, top, left, height, width):
    inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
    return inside[:, None]


@triton.jit
def _apply(
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
def _differentiate(
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
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    _apply(
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
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    centre = tl.load(mean + at, mask=real, other=0)
    slopes = tl.load(slope + at, mask=real, other=0)
    offsets = tl.load(offset + at, mask=real, other=0)
    _differentiate(
        x, dy, dx, sample, c, tl.load(gain + at, mask=real, other=0), centre, slopes, offsets,
        centre, slopes, offsets, channels, positions, map_width, sb, sc, step,
        0, 0, 0, 0, 0, 0, 0, 0, False, False, BLOCK_P,
    )  # fmt: skip


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
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    partner = _partner(order, sample, c, channels, real, ACROSS)
    gain = tl.load(style_std + partner, mask=real, other=1)
    gain /= tl.load(std + at, mask=real, other=1)
    shift = tl.load(style_mean + partner, mask=real, other=0)
    if RESTED:
        shift -= gain * tl.load(rest + at, mask=real, other=0)
    _apply(
        x, y, sample, c, tl.load(mean + at, mask=real, other=0), gain, shift,
        channels, positions, map_width, sb, sc, step, top, left, height, width,
        True, BOXED, BLOCK_P,
    )  # fmt: skip


@triton.jit
def _scaled(weighted, plain, std, rest, at, mask, RESTED: tl.constexpr):
    """The sum of `dy`, and that of ``dy * (x - mean) / std``."""
    count = tl.load(plain + at, mask=mask, other=0)
    total = tl.load(weighted + at, mask=mask, other=0)
    if RESTED:
        total -= count * tl.load(rest + at, mask=mask, other=0)
    return count, total / tl.load(std + at, mask=mask, other=1)


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
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    centre = tl.load(mean + at, mask=real, other=0)
    own_std = tl.load(std + at, mask=real, other=1)
    gain = tl.load(
        style_std + _partner(order, sample, c, channels, real, ACROSS), mask=real, other=1
    )
    gain /= own_std
    total, scaled = _scaled(weighted, plain, std, rest, at, real, RESTED)
    slope = -gain * scaled / (own_std * freedom)
    offset = -gain * total / count
    if RESTED:
        offset -= slope * tl.load(rest + at, mask=real, other=0)
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
    style_slope = style_dstd / (tl.load(style_std + at, mask=real, other=1) * style_freedom)
    style_offset = style_dmean / style_count
    if RESTED:
        style_offset -= style_slope * tl.load(style_rest + at, mask=real, other=0)
    if not STYLED:
        slope += style_slope
        offset += style_offset
    _differentiate(
        x, dy, dx, sample, c, gain, centre, slope, offset, style_centre, style_slope, style_offset,
        channels, positions, map_width, sb, sc, step,
        top, left, height, width, style_top, style_left, style_height, style_width,
        BOXED, STYLED, BLOCK_P,
    )  # fmt: skip


@triton.jit
def _normalised(mean, std, fc, centre, variance, eps, c, real):
    """A gate's score after its batch norm, without weight and bias, and 1 / its deviation."""
    score = mean * tl.load(fc + 2 * c, mask=real, other=0)
    score += std * tl.load(fc + 2 * c + 1, mask=real, other=0)
    scale = 1 / tl.sqrt_rn(tl.load(variance + c, mask=real, other=1) + eps)
    return (score - tl.load(centre + c, mask=real, other=0)) * scale, scale


@triton.jit
def _gate(mean, std, fc, weight, bias, centre, variance, eps, c, real):
    score, _ = _normalised(mean, std, fc, centre, variance, eps, c, real)
    score *= tl.load(weight + c, mask=real, other=0)
    return tl.sigmoid(score + tl.load(bias + c, mask=real, other=0))


@triton.jit(do_not_specialize=["batch"])
def batch_statistics(
    mean, std, fc, centre_out, variance_out, running_mean, running_var, tracked,
    momentum, batch, channels, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of a gate's scores, in two passes; moves the running ones on."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < channels
    first_weight = tl.load(fc + 2 * c, mask=real, other=0)[None, :]
    second_weight = tl.load(fc + 2 * c + 1, mask=real, other=0)[None, :]
    centre = tl.zeros([BLOCK_C], tl.float32)
    variance = tl.zeros([BLOCK_C], tl.float32)
    for go in tl.static_range(2):
        total = tl.zeros([BLOCK_C], tl.float32)
        for start in range(0, batch, BLOCK_B):
            b = start + tl.arange(0, BLOCK_B)
            mask = (b < batch)[:, None] & real[None, :]
            at = b[:, None] * channels + c[None, :]
            score = tl.load(mean + at, mask=mask, other=0) * first_weight
            score += tl.load(std + at, mask=mask, other=0) * second_weight
            if go == 0:
                total += tl.sum(score, 0)
            else:
                deviation = tl.where(mask, score - centre[None, :], 0)
                total += tl.sum(deviation * deviation, 0)
        if go == 0:
            centre = total / batch
        else:
            variance = total / batch
    tl.store(centre_out + c, centre, mask=real)
    tl.store(variance_out + c, variance, mask=real)
    old = tl.load(running_mean + c, mask=real, other=0) * (1 - momentum)
    tl.store(running_mean + c, old + momentum * centre, mask=real)
    old = tl.load(running_var + c, mask=real, other=0) * (1 - momentum)
    tl.store(running_var + c, old + momentum * (variance * batch / (batch - 1)), mask=real)
    if tl.program_id(0) == 0:
        tl.store(tracked, tl.load(tracked) + 1)


@triton.jit
def gated(
    x, y, mean, std, rest,
    g_fc, g_weight, g_bias, g_centre, g_variance, f_fc, f_weight, f_bias, f_centre, f_variance,
    g_eps, f_eps, channels, positions, map_width, sb, sc, step,
    RESTED: tl.constexpr, TWO_SIDED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """SelfNorm: the gates are made of the channel's statistics."""
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    centre = tl.load(mean + at, mask=real, other=0)
    deviation = tl.load(std + at, mask=real, other=1)
    gain = _gate(centre, deviation, g_fc, g_weight, g_bias, g_centre, g_variance, g_eps, c, real)
    shift = gain
    if TWO_SIDED:
        shift = centre * _gate(
            centre, deviation, f_fc, f_weight, f_bias, f_centre, f_variance, f_eps, c, real
        )
        if RESTED:
            shift -= gain * tl.load(rest + at, mask=real, other=0)
    _apply(
        x, y, sample, c, centre, gain, shift, channels, positions, map_width, sb, sc, step,
        0, 0, 0, 0, TWO_SIDED, False, BLOCK_P,
    )  # fmt: skip


@triton.jit
def _gate_slope(dgate, mean, std, fc, weight, bias, centre, variance, eps, c, real):
    """A gate, and the gradient of its normalised score after weight and bias."""
    gate = _gate(mean, std, fc, weight, bias, centre, variance, eps, c, real)
    return gate, dgate * gate * (1 - gate)


@triton.jit
def _score_slope(
    dgate, mean, std, fc, weight, bias, centre, variance, dweight, dbias, eps, batch, c, real,
    BATCH: tl.constexpr,
):  # fmt: skip
    """A gate, and the gradient of its score; with BATCH the batch norm's statistics have one."""
    gate, slope = _gate_slope(dgate, mean, std, fc, weight, bias, centre, variance, eps, c, real)
    normalised, scale = _normalised(mean, std, fc, centre, variance, eps, c, real)
    if BATCH:
        slope -= tl.load(dbias + c, mask=real, other=0) / batch
        slope -= normalised * (tl.load(dweight + c, mask=real, other=0) / batch)
    return gate, slope * scale * tl.load(weight + c, mask=real, other=0)


@triton.jit
def _dgate(weighted, plain, mean, rest, at, mask, OF_MEAN: tl.constexpr, RESTED: tl.constexpr):
    """The gradient of a gate from the sums of products; that of f multiplies the mean."""
    if OF_MEAN:
        return tl.load(plain + at, mask=mask, other=0) * tl.load(mean + at, mask=mask, other=0)
    total = tl.load(weighted + at, mask=mask, other=0)
    if RESTED:
        total -= tl.load(plain + at, mask=mask, other=0) * tl.load(rest + at, mask=mask, other=0)
    return total


@triton.jit(do_not_specialize=["batch"])
def gate_sums(
    weighted, plain, mean, std, rest, fc, weight, bias, centre, variance,
    dfc, dweight, dbias, eps, batch, channels,
    BATCH: tl.constexpr, OF_MEAN: tl.constexpr, RESTED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of a gate's parameters: sums over the batch, of which the prologue needs two."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < channels
    across, real_across = c[None, :], real[None, :]
    bias_sum = tl.zeros([BLOCK_C], tl.float32)
    weight_sum = tl.zeros([BLOCK_C], tl.float32)
    mean_sum = tl.zeros([BLOCK_C], tl.float32)
    std_sum = tl.zeros([BLOCK_C], tl.float32)
    for go in tl.static_range(2):
        for start in range(0, batch, BLOCK_B):
            b = start + tl.arange(0, BLOCK_B)
            mask = (b < batch)[:, None] & real_across
            at = b[:, None] * channels + across
            m = tl.load(mean + at, mask=mask, other=0)
            s = tl.load(std + at, mask=mask, other=0)
            dgate = _dgate(weighted, plain, mean, rest, at, mask, OF_MEAN, RESTED)
            _, slope = _gate_slope(
                dgate, m, s, fc, weight, bias, centre, variance, eps, across, real_across
            )
            normalised, scale = _normalised(m, s, fc, centre, variance, eps, across, real_across)
            if go == 0:
                bias_sum += tl.sum(slope, 0)
                weight_sum += tl.sum(slope * normalised, 0)
            else:
                if BATCH:
                    slope -= (bias_sum[None, :] + normalised * weight_sum[None, :]) / batch
                slope *= scale * tl.load(weight + across, mask=real_across, other=0)
                mean_sum += tl.sum(slope * m, 0)
                std_sum += tl.sum(slope * s, 0)
    tl.store(dbias + c, bias_sum, mask=real)
    tl.store(dweight + c, weight_sum, mask=real)
    tl.store(dfc + 2 * c, mean_sum, mask=real)
    tl.store(dfc + 2 * c + 1, std_sum, mask=real)


@triton.jit
def gated_gradient(
    x, dy, dx, weighted, plain, mean, std, rest,
    g_fc, g_weight, g_bias, g_centre, g_variance, g_dweight, g_dbias,
    f_fc, f_weight, f_bias, f_centre, f_variance, f_dweight, f_dbias,
    g_eps, f_eps, batch, count, freedom, channels, positions, map_width, sb, sc, step,
    G_BATCH: tl.constexpr, F_BATCH: tl.constexpr, TWO_SIDED: tl.constexpr, RESTED: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """SelfNorm: gates and their gradients are made again of statistics and sums."""
    sample, c = _channels(channels, BLOCK_C)
    real = c < channels
    at = sample * channels + c
    m = tl.load(mean + at, mask=real, other=0)
    s = tl.load(std + at, mask=real, other=1)
    dgate = _dgate(weighted, plain, mean, rest, at, real, False, TWO_SIDED and RESTED)
    gain, dscore = _score_slope(
        dgate, m, s, g_fc, g_weight, g_bias, g_centre, g_variance, g_dweight, g_dbias,
        g_eps, batch, c, real, G_BATCH,
    )  # fmt: skip
    dmean = dscore * tl.load(g_fc + 2 * c, mask=real, other=0)
    dstd = dscore * tl.load(g_fc + 2 * c + 1, mask=real, other=0)
    if TWO_SIDED:
        dgate = _dgate(weighted, plain, mean, rest, at, real, True, RESTED)
        mean_gain, dscore = _score_slope(
            dgate, m, s, f_fc, f_weight, f_bias, f_centre, f_variance, f_dweight, f_dbias,
            f_eps, batch, c, real, F_BATCH,
        )  # fmt: skip
        dmean += dscore * tl.load(f_fc + 2 * c, mask=real, other=0)
        dstd += dscore * tl.load(f_fc + 2 * c + 1, mask=real, other=0)
        dmean += (mean_gain - gain) * tl.load(plain + at, mask=real, other=0)
    slope = dstd / (s * freedom)
    offset = dmean / count
    if RESTED:
        offset -= slope * tl.load(rest + at, mask=real, other=0)
    _differentiate(
        x, dy, dx, sample, c, gain, m, slope, offset, m, slope, offset,
        channels, positions, map_width, sb, sc, step,
        0, 0, 0, 0, 0, 0, 0, 0, False, False, BLOCK_P,
    )  # fmt: skip
