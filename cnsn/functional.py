"""CrossNorm's arithmetic: tensors in, tensors out, no state.

With per-channel mean and standard deviation (mu, sigma) of a content map A and a style map B,

    cross_norm(A, B) = sigma_B * (A - mu_A) / sigma_A + mu_B

Source: Tang et al., "CrossNorm and SelfNorm for Generalization under Distribution Shifts",
ICCV 2021, https://arxiv.org/abs/2102.02811
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cross_norm", "exchange", "instance_stats", "sample_beta", "sample_box", "sample_span"]

# The sampling loops below are exact rejections; a bound keeps a bad draw from hanging a run.
MAX_TRIES = 100
# Spans are whole numbers of this part of a sequence, so that every device cuts alike.
SPAN_PARTS = 1 << 24


def _spatial_dims(x: Tensor) -> tuple[int, ...]:
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            "Expected `x` to be of shape (B, C, L), (B, C, H, W) or (B, C, T, H, W), but got "
            f"{tuple(x.shape)}."
        )
    return tuple(range(2, x.ndim))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def instance_stats(
    x: Tensor, eps: float = 1e-5, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of every sample.

    Args:
        x: floating point, of shape (B, C, L), (B, C, H, W) or (B, C, T, H, W).
        eps: added to the unbiased variance, inside the root.
        mask: bool of the shape of `x` without its channels, the positions that count; None counts
            all. Whatever the others hold, NaN included, changes nothing, and no gradient reaches
            them.

    Returns:
        ``mean`` and ``std`` of shape (B, C, 1), (B, C, 1, 1) or (B, C, 1, 1, 1), in float32 for
        half-precision inputs and in the input's dtype otherwise. The variance of a single position
        is 0, as are mean and variance of a sample of which no position counts.

    Raises:
        ValueError: for another number of dimensions, an integer dtype, a map with no position or
            a mask of another shape or dtype.
    """
    dims = _spatial_dims(x)
    if not x.is_floating_point():
        raise ValueError(f"Expected `x` to be of a floating point dtype, but got {x.dtype}.")
    positions = math.prod(x.shape[2:])
    if positions == 0:
        raise ValueError(f"Expected `x` to have at least 1 position, but got {tuple(x.shape)}.")
    x = _at_least_float32(x)
    if mask is not None:
        return _masked_stats(x, eps, mask, dims)
    mean = x.mean(dims, keepdim=True)
    # Two passes: E[x^2] - mean^2 loses every digit once |mean| / std passes about 1e3, and the
    # stock variance kernel is several times slower on CPU. The mean is rounded, so the deviations
    # have a mean of their own, which is taken off their squares.
    deviation = x - mean
    squares = deviation.square().sum(dims, keepdim=True)
    squares = squares - deviation.sum(dims, keepdim=True).square() / positions
    variance = squares.clamp(min=0) / max(positions - 1, 1)
    return mean, (variance + eps).sqrt()


def _masked_stats(
    x: Tensor, eps: float, mask: Tensor, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    if mask.dtype != torch.bool or mask.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(
            f"Expected `mask` to be bool of shape {(x.shape[0], *x.shape[2:])}, but got "
            f"{mask.dtype} {tuple(mask.shape)}."
        )
    mask = mask.unsqueeze(1)
    count = mask.sum(dims, keepdim=True)
    # Selected, not multiplied: 0 * NaN is NaN.
    mean = torch.where(mask, x, 0).sum(dims, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(mask, x - mean, 0)
    variance = deviation.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)
    return mean, (variance + eps).sqrt()


def cross_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Give `content` the per-channel statistics of `style`.

    Args:
        content: (B, C, L), (B, C, H, W) or (B, C, T, H, W).
        style: same B and C; its spatial size may differ.
        eps: added to both variances, inside the root.

    Returns:
        Of the shape and dtype of `content`. Gradients flow through both pairs of statistics.

    Raises:
        ValueError: if the two differ in batch size, channels or number of dimensions.
    """
    if content.ndim != style.ndim or content.shape[:2] != style.shape[:2]:
        raise ValueError(
            "Expected `content` and `style` to agree in batch size and channels, but got "
            f"{tuple(content.shape)} and {tuple(style.shape)}."
        )
    content_mean, content_std = instance_stats(content, eps)
    style_mean, style_std = instance_stats(style, eps)
    return restyle(content, content_mean, content_std, style_mean, style_std)


def restyle(
    content: Tensor, mean: Tensor, std: Tensor, style_mean: Tensor, style_std: Tensor
) -> Tensor:
    """``style_std * (content - mean) / std + style_mean``, rounded once to the content's dtype."""
    centred = _at_least_float32(content) - mean
    return (centred * (style_std / std) + style_mean).to(content.dtype)


def exchange(
    x: Tensor,
    order: Tensor,
    dim: int,
    eps: float,
    content_box: tuple[int, int, int, int] | None = None,
    style_box: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """Give each map of a batch, inside a box, the statistics of another map's box.

    Args:
        x: (B, C, L), (B, C, H, W) or (B, C, T, H, W).
        order: whose style each takes, (B,) along dimension 0 or (C,) along 1.
        dim: 0 or 1.
        eps: added to both variances, inside the root.
        content_box: top, left, height and width; None is everywhere. A sequence is a map one
            position wide; in a video the box is the same in every frame.
        style_box: likewise.

    Returns:
        Of the shape and dtype of `x`, equal to it outside the content's box.
    """
    place = _index(x, content_box)
    content = x[place]
    stats = instance_stats(content, eps)
    # Every style is some map's own statistics: only they are permuted.
    same = content_box == style_box
    styles = stats if same else instance_stats(x[_index(x, style_box)], eps)
    restyled = restyle(content, *stats, *(s.index_select(dim, order) for s in styles))
    if content_box is None:
        return restyled
    out = x.clone()
    out[place] = restyled
    return out


def _index(x: Tensor, box: tuple[int, int, int, int] | None) -> tuple[slice, ...]:
    """What cuts `box` out of maps, out of every frame, or, one position wide, out of sequences."""
    everything = (slice(None),) * x.ndim
    if box is None:
        return everything
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    return (*everything[:2], rows) if x.ndim == 3 else (*everything[:-2], rows, columns)


def sample_beta(beta: float, generator: torch.Generator | None = None) -> float:
    """One draw from Beta(beta, beta).

    Ulrich's closed form for beta > 1/2 (Devroye 1986, "Non-Uniform Random Variate Generation",
    IX.4), Johnk's rejection below, both exact.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"Expected `beta` to be positive, but got {beta}.")
    if beta > 0.5:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64, device="cpu").tolist()
        radius = math.sqrt(1.0 - u ** (2.0 / (2.0 * beta - 1.0)))
        return 0.5 + 0.5 * radius * math.cos(2.0 * math.pi * v)
    for _ in range(MAX_TRIES):
        u, v = torch.rand(2, generator=generator, dtype=torch.float64, device="cpu").tolist()
        x, y = u ** (1.0 / beta), v ** (1.0 / beta)
        if 0.0 < x + y <= 1.0:
            return x / (x + y)
    return 0.5


def sample_box(
    height: int,
    width: int,
    *,
    beta: float = 1.0,
    min_area: float = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[int, int, int, int]:
    """A random box ``(top, left, height, width)`` inside a map of `height` x `width` positions.

    The area ratio is drawn from Beta(beta, beta), the centre uniformly; the box is clipped at the
    map's edges. Draws whose clipped box covers less than `min_area` of the map, or fewer than 2
    positions (which have no standard deviation), are repeated a bounded number of times; then the
    whole map is used.

    Raises:
        ValueError: if the map has fewer than 2 positions or an argument is out of range.
    """
    if height < 1 or width < 1 or height * width < 2:
        raise ValueError(f"Expected a map of at least 2 positions, but got {height} x {width}.")
    if not 0.0 <= min_area < 1.0:
        raise ValueError(f"Expected `min_area` to be in [0, 1), but got {min_area}.")
    for _ in range(MAX_TRIES):
        side = sample_beta(beta, generator)
        if min(height, width) > 1:  # A sequence has one side to cut, a map two.
            side = math.sqrt(side)
        centre = torch.rand(2, generator=generator, dtype=torch.float64, device="cpu").tolist()
        top, bottom = _clipped_interval(int(centre[0] * height), int(height * side), height)
        left, right = _clipped_interval(int(centre[1] * width), int(width * side), width)
        area = (bottom - top) * (right - left)
        if area >= 2 and area >= min_area * height * width:
            return top, left, bottom - top, right - left
    return 0, 0, height, width


def sample_span(
    lengths: Tensor,
    *,
    beta: float = 1.0,
    min_area: float = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """A random piece of sequences: the same share of each, drawn as by :func:`sample_box`.

    The draw does not depend on the lengths, so they may lie on any device and nothing waits for it.

    Args:
        lengths: int64, of any shape.
        beta: see :func:`sample_box`, also for `min_area`.
        min_area: smallest share.
        generator: on CPU.

    Returns:
        Of the shape of `lengths`: the first position, and that behind the last one. A piece holds
        at least 2 positions, or all of a shorter sequence.
    """
    start, _, length, _ = sample_box(
        SPAN_PARTS, 1, beta=beta, min_area=min_area, generator=generator
    )
    first = lengths * start // SPAN_PARTS
    last = (lengths * (start + length) + SPAN_PARTS - 1) // SPAN_PARTS
    last = torch.maximum(last, first + 2).minimum(lengths)
    return torch.minimum(first, (last - 2).clamp(min=0)), last


def _clipped_interval(centre: int, length: int, size: int) -> tuple[int, int]:
    if size == 1:
        return 0, 1
    half = length // 2
    return max(centre - half, 0), min(centre + half, size)
