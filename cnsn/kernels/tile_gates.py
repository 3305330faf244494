"""SelfNorm in Triton: gates are made of a channel's statistics, and their gradients of sums."""

from __future__ import annotations

import triton
import triton.language as tl

from cnsn.kernels.tiles import apply, channels_of, differentiate, term


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
    sample, c, real = channels_of(channels, BLOCK_C)
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
    apply(
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
    sample, c, real = channels_of(channels, BLOCK_C)
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
    slope, offset = term(dmean, dstd, s, rest, at, real, count, freedom, RESTED)
    differentiate(
        x, dy, dx, sample, c, gain, m, slope, offset,
        channels, positions, map_width, sb, sc, step, BLOCK_P,
    )  # fmt: skip
