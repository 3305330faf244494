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

from cnsn.kernels.regions import (
    Box,
    Moments,
    Term,
    at_least_float32,
    inside,
    is_channels_last,
    positions,
    term,
)

__all__ = [
    "affine",
    "exchange",
    "exchange_gradient",
    "gradient",
    "moments",
    "partners",
    "products",
]

# Bytes of floats that a thread works on at a time: fewer calls weigh more than a nearer cache.
BLOCK_BYTES = 1 << 21

# Below so many numbers a matrix product with ones is faster than a sum.
SHORT = 64

Views = tuple[Tensor, ...]


class _Blocks:
    """Maps a few samples at a time, as matrices with a row for each channel of each sample.

    A box is handled in lines of full width, which are contiguous, and weights of 1 and 0 say what
    of them is the box and what its edges. In channels_last, where the channels of a position are
    contiguous, blocks are (b, n, C) or, of a box, (b, h, w, C).
    """

    def __init__(self, x: Tensor, box: Box | None) -> None:
        self.box, self.last = box, is_channels_last(x)
        self.dtype = at_least_float32(x.dtype)
        batch, self.channels, _, self.width = x.shape
        last = (-1, 1, self.channels) if box is None else (-1, 1, 1, self.channels)
        self.column = last if self.last else (-1, 1)
        size = x[:1].numel() * self.dtype.itemsize
        # Whole samples for each thread: sums are shared out by sample, other operations by place,
        # and a thread should find in its cache what it wrote there before.
        self.threads = torch.get_num_threads()
        samples = min(batch, max(1, BLOCK_BYTES // size) * self.threads)
        self.step = samples if self.last else samples * self.channels
        sources = self.maps(x)
        self.memory = torch.empty(sources[0].shape, dtype=self.dtype, device=x.device)
        self.buffers = [self.memory[: len(block)] for block in sources]
        self.edges: Tensor | None = None
        if not self.last:
            self.ones = torch.ones(self.memory.shape[1], dtype=self.dtype, device=x.device)
            if box is not None and box[3] < self.width:
                lines = self.ones.view(-1, self.width)
                lines[:, : box[1]] = 0
                lines[:, box[1] + box[3] :] = 0
                self.edges = 1 - self.ones

    def maps(self, x: Tensor) -> Views:
        if self.last:
            x = inside(x, self.box).permute(0, 2, 3, 1)
            return (x.flatten(1, 2) if self.box is None else x).split(self.step)
        rows = x.view(len(x) * self.channels, -1)
        if self.box is not None:
            top, _, height, _ = self.box
            rows = rows[:, top * self.width : (top + height) * self.width]
        return rows.split(self.step)

    def columns(self, c: Tensor) -> Views:
        """(B, C) numbers, in shapes that multiply blocks."""
        return c.view(self.column).split(self.step)

    def results(self, c: Tensor) -> Views:
        """(B, C) numbers, in shapes that take sums of blocks."""
        return (c if self.last else c.view(-1)).split(self.step)

    def sum(self, block: Tensor, out: Tensor, buffer: Tensor) -> None:
        """Of each row, without the edges; with `out=` safe from autocast.

        The buffer, which may be the block itself, is used where there is more than one thread: a
        matrix product runs in one, which would take what the others have in their caches.
        """
        if self.last:
            torch.sum(block.view(len(block), -1, self.channels), 1, out=out)
        elif self.threads > 1 and self.edges is not None:
            torch.sum(torch.mul(block, self.ones, out=buffer), 1, out=out)
        elif self.threads > 1 or (self.edges is None and block.shape[1] >= SHORT):
            torch.sum(block, 1, out=out)
        else:
            torch.mv(block, self.ones, out=out)

    def floats(self, source: Tensor, buffer: Tensor) -> Tensor:
        """Of a map, fit for a sum; in the buffer where they have to be copied."""
        fit = source.dtype == self.dtype and (self.box is None or not self.last)
        return source if fit else buffer.copy_(source)

    def centre(self, source: Tensor, mean: Tensor, buffer: Tensor) -> Tensor:
        """``source - mean``, in the buffer."""
        source = source if source.dtype == self.dtype else buffer.copy_(source)
        return torch.sub(source, mean, out=buffer)

    def scale(self, block: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """``block * gain + shift``, in place."""
        if self.last:
            return torch.addcmul(shift, block, gain, out=block)
        # addcmul is not vectorised where two operands are broadcast along the inner dimension.
        return block.mul_(gain).add_(shift)

    def direct(self, out: Tensor) -> bool:
        """Whether blocks may be computed where they belong, without the buffer."""
        return self.edges is None and out.dtype == self.dtype

    def put(self, block: Tensor, base: Tensor, out: Tensor) -> None:
        """Into `out`, with `base` at the edges; uses up the block."""
        if self.edges is None:
            out.copy_(block)
        elif out.dtype == self.dtype:
            torch.addcmul(block.mul_(self.ones), base, self.edges, out=out)
        else:
            out.copy_(block.mul_(self.ones).addcmul_(base.to(self.dtype), self.edges))


def _numbers(x: Tensor) -> Tensor:
    return torch.empty(x.shape[:2], dtype=at_least_float32(x.dtype), device=x.device)


def moments(x: Tensor, box: Box | None, eps: float) -> Moments:
    """Of every channel of every sample over `box`; `eps` is added to the unbiased variance."""
    blocks, n = _Blocks(x, box), positions(x, box)
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
    blocks = _Blocks(x, box)
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
    blocks = _Blocks(x, None)
    maps = (blocks.maps(x), blocks.buffers, blocks.maps(y), blocks.columns(gain))
    for source, buffer, out, g in zip(*maps, strict=True):
        out.copy_(buffer.copy_(source).mul_(g))
    return y


def products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Sums over `box` of ``dy * (x - mean)`` and of ``dy``; without a mean of ``dy * x`` alone."""
    blocks, weighted = _Blocks(x, box), _numbers(x)
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
    blocks = _Blocks(x, content.box)
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


def exchange(
    x: Tensor, partners: tuple[Tensor, ...], dim: int, content: Moments, style: Moments
) -> Tensor:
    """`x` in the content's box with the style's statistics; `dim` is that of the order."""
    gain, shift = (s.index_select(dim, *partners) for s in (style.std, style.mean))
    gain.div_(content.std)
    if content.rest is not None:
        shift.addcmul_(gain, content.rest, value=-1)
    return affine(x, content.box, content.mean, gain, shift)


def exchange_gradient(
    x: Tensor,
    dy: Tensor,
    partners: tuple[Tensor, ...],
    dim: int,
    content: Moments,
    style: Moments,
) -> Tensor:
    """Through both pairs of statistics."""
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
    blocks = _Blocks(x, term.box)
    maps = (blocks.maps(x), blocks.buffers, blocks.maps(dx))
    coefficients = (blocks.columns(c) for c in term[1:])
    for source, buffer, out, m, s, o in zip(*maps, *coefficients, strict=True):
        block = blocks.scale(blocks.centre(source, m, buffer), s, o)
        out.add_(block if blocks.edges is None else block.mul_(blocks.ones))
