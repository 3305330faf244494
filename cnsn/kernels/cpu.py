"""The layers' four kernels on CPU, from stock vectorised operations.

A map is handled a few samples at a time, so that what is read from memory once stays in the cache
for the operations that follow. Deviations are taken from the mean before they are squared or
scaled, never after: E[x^2] - mean^2 and gain * x + shift lose their digits where |mean| >> std.

Maps are (B, C, H, W), contiguous or channels_last, `x` and `dy` alike. The (B, C) tensors are
contiguous, float32 for half-precision maps and of the map's dtype otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.kernels.blocks import Blocks
from cnsn.kernels.regions import Box, Exchange, Moments, Term, at_least_float32, positions, term

__all__ = [
    "affine",
    "exchange",
    "exchange_gradient",
    "gradient",
    "moments",
    "partners",
    "products",
]


def _numbers(x: Tensor) -> Tensor:
    return torch.empty(x.shape[:2], dtype=at_least_float32(x.dtype), device=x.device)


def moments(x: Tensor, box: Box | None, eps: float) -> Moments:
    """Of every channel of every sample over `box`; `eps` is added to the unbiased variance."""
    blocks, n = Blocks(x, box), positions(x, box)
    guess, rest, squares = (_numbers(x) for _ in range(3))
    for source, buffer, total, column, deviation, square in zip(
        blocks.maps(x),
        blocks.buffers,
        blocks.results(guess),
        blocks.columns(guess),
        blocks.results(rest),
        blocks.results(squares),
        strict=True,
    ):
        floats = blocks.floats(source, buffer)
        blocks.sum(floats, total, buffer)
        total.div_(n)
        torch.sub(floats, column, out=buffer)
        # A sum of large numbers misses the mean by a few roundings; the deviations tell.
        blocks.sum(buffer, deviation, buffer)
        blocks.sum(buffer.mul_(buffer), square, buffer)
    rest.div_(n)
    squares.addcmul_(rest, rest, value=-n).clamp_(min=0)
    mean = guess + rest
    std = squares.div_(max(n - 1, 1)).add_(eps).sqrt_()
    # Half precision has no digits that the rest would matter for.
    return Moments(box, mean, std, guess.sub_(mean).add_(rest) if x.dtype == mean.dtype else None)


def affine(
    x: Tensor, box: Box | None, mean: Tensor | None, gain: Tensor, shift: Tensor | None
) -> Tensor:
    """``gain * (x - mean) + shift`` in `box` and `x` elsewhere; without a mean ``gain * x``."""
    y = torch.empty_like(x)
    if mean is None or shift is None:
        return _product(x, gain, y)
    if box is not None:
        y.copy_(x)
    blocks = Blocks(x, box)
    coefficients = (blocks.columns(c) for c in (mean, gain, shift))
    maps = (blocks.maps(x), blocks.buffers, blocks.maps(y))
    for source, buffer, out, m, g, s in zip(*maps, *coefficients, strict=True):
        if blocks.direct(out):
            blocks.scale(torch.sub(source, m, out=out), g, s)
        else:
            blocks.put(blocks.scale(blocks.centre(source, m, buffer), g, s), source, out)
    return y


def _product(x: Tensor, gain: Tensor, y: Tensor) -> Tensor:
    if x.dtype == gain.dtype:
        return torch.mul(x, gain[:, :, None, None], out=y)
    blocks = Blocks(x, None)
    maps = (blocks.maps(x), blocks.buffers, blocks.maps(y), blocks.columns(gain))
    for source, buffer, out, g in zip(*maps, strict=True):
        out.copy_(buffer.copy_(source).mul_(g))
    return y


def products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Sums over `box` of ``dy * (x - mean)`` and of ``dy``; without a mean of ``dy * x`` alone."""
    blocks, weighted = Blocks(x, box), _numbers(x)
    maps = (blocks.maps(x), blocks.maps(dy), blocks.buffers, blocks.results(weighted))
    if mean is None:
        for source, grad, buffer, total in zip(*maps, strict=True):
            product = torch.mul(blocks.floats(source, buffer), grad, out=buffer)
            blocks.sum(product, total, buffer)
        return weighted, None
    plain = _numbers(x)
    more = (blocks.results(plain), blocks.columns(mean))
    for source, grad, buffer, total, count, m in zip(*maps, *more, strict=True):
        blocks.sum(blocks.floats(grad, buffer), count, buffer)
        blocks.sum(blocks.centre(source, m, buffer).mul_(grad), total, buffer)
    return weighted, plain


def gradient(
    x: Tensor, dy: Tensor, gain: Tensor, content: Term, style: Term | None = None
) -> Tensor:
    """``gain * dy`` and the content's term in its box, `dy` elsewhere; plus the style's term."""
    dx = torch.empty_like(x)
    if content.box is not None:
        dx.copy_(dy)
    blocks = Blocks(x, content.box)
    maps = (blocks.maps(x), blocks.maps(dy), blocks.buffers, blocks.maps(dx))
    coefficients = (blocks.columns(c) for c in (gain, *content[1:]))
    for source, grad, buffer, out, g, m, s, o in zip(*maps, *coefficients, strict=True):
        if blocks.direct(out):
            blocks.scale(torch.sub(source, m, out=out), s, o).addcmul_(grad, g)
        else:
            block = blocks.scale(blocks.centre(source, m, buffer), s, o)
            blocks.put(block.addcmul_(grad.to(blocks.dtype), g), grad, out)
    if style is not None:
        _add(dx, x, style)
    return dx


def partners(order: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """What :func:`exchange` and its gradient ask of `order`, which says whose style each takes."""
    return (order.to(device),)


def exchange(x: Tensor, swap: Exchange) -> Tensor:
    """`x` in the content's box with the style's statistics."""
    partners, dim, content, style = swap
    gain, shift = (s.index_select(dim, *partners) for s in (style.std, style.mean))
    gain.div_(content.std)
    if content.rest is not None:
        shift.addcmul_(gain, content.rest, value=-1)
    return affine(x, content.box, content.mean, gain, shift)


def exchange_gradient(x: Tensor, dy: Tensor, swap: Exchange) -> Tensor:
    """Through both pairs of statistics."""
    partners, dim, content, style = swap
    gain = style.std.index_select(dim, *partners).div_(content.std)
    scaled, plain = products(x, dy, content.box, content.mean)
    assert plain is not None
    if content.rest is not None:
        scaled.addcmul_(plain, content.rest, value=-1)
    scaled.div_(content.std)
    zeros = torch.zeros_like(gain)
    dmean, dstd = (zeros.index_add(dim, partners[0], part) for part in (plain, scaled))
    own = (-gain * plain, -gain * scaled)
    if content.box == style.box:
        return gradient(x, dy, gain, term(x, content, own[0] + dmean, own[1] + dstd))
    return gradient(x, dy, gain, term(x, content, *own), term(x, style, dmean, dstd))


def _add(dx: Tensor, x: Tensor, term: Term) -> None:
    blocks = Blocks(x, term.box)
    maps = (blocks.maps(x), blocks.buffers, blocks.maps(dx))
    coefficients = (blocks.columns(c) for c in term[1:])
    for source, buffer, out, m, s, o in zip(*maps, *coefficients, strict=True):
        block = blocks.scale(blocks.centre(source, m, buffer), s, o)
        out.add_(block if blocks.edges is None else block.mul_(blocks.ones))
