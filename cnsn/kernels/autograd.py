"""The layers' forward and backward around the kernels.

Statistics and application are two autograd functions, and what turns statistics into gains and
shifts, on (B, C) numbers, is ordinary autograd between them:

    x --> _Statistics --> mean, std --> gates --> gain, shift
                     \\--> x' ----------------------> _Apply --> y

CrossNorm's gain and shift are made inside ``_Exchange``, an _Apply that keeps fewer numbers.
Ordinary autograd would make two gradients of the size of `x` and add them. Here ``_Apply`` leaves
its own to ``_Statistics``: it passes `dy` on, and the gain through a :class:`_Link`, so that one
pass over `dy` and `x` gives the gradient

    dx = gain * dy + dmean / n + dstd * (x - mean) / ((n - 1) * std).

Only `x` is saved, once. x' never leaves this file, so nothing else can add to its gradient. With
``create_graph=True`` the backward consists of ordinary operations and can be differentiated again.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cnsn.kernels.regions import Box, Term, alike, at_least_float32, dense, inside, positions

__all__ = ["Statistics", "backend", "plain_products"]

Grads = tuple[Tensor | None, ...]


def backend(x: Tensor) -> ModuleType:
    """The kernels for the device of `x`."""
    if x.is_cuda:
        from cnsn.kernels import gpu

        return gpu
    from cnsn.kernels import cpu

    return cpu


class _Link:
    """Carries the map and the gain from _Apply's backward to that of _Statistics.

    `source` stays after a backward with ``create_graph=True``: what differentiates its results
    reaches _Statistics without passing _Apply.
    """

    x: Tensor | None = None
    gain: Tensor | None = None
    source: Tensor | None = None

    def leave(self, x: Tensor, gain: Tensor) -> None:
        self.x, self.gain = x, gain
        self.source = x if torch.is_grad_enabled() else self.source


class Statistics:
    """Channel statistics of a map, and what can be made of the map with them.

    Args:
        x: (B, C, H, W) or (B, C, L), with at least one element.
        eps: added to the unbiased variance, inside the root.
        box: where the statistics come from, and where :meth:`restyled` acts; None is everywhere.
        style_box: a second pair of statistics comes from there; ``...`` for no second pair.

    Attributes:
        mean, std, style_mean, style_std: (B, C), float32 for half precision. Without a second pair
            the style's are the first.
    """

    def __init__(
        self, x: Tensor, eps: float, box: Box | None = None, style_box: Box | Any | None = ...
    ) -> None:
        self.shape = x.shape
        x = x if x.ndim == 4 else x.unsqueeze(-1)
        x = dense(x)
        self.x, self.box, self.link = x, box, _Link()
        boxes = (box,) if style_box is ... else (box, style_box)
        self.alias, *rest = _Statistics.apply(self.link, x, eps, boxes)
        self.mean, self.std, self.rest = rest[:3]
        self.style_mean, self.style_std = rest[-3:-1]

    def scaled(self, gain: Tensor) -> Tensor:
        """``gain * x`` for a gain of (B, C)."""
        y = _Apply.apply(self.link, self.alias, self.x, None, None, None, gain, None)
        return y if y.shape == self.shape else y.squeeze(-1)

    def restyled(self, gain: Tensor, shift: Tensor) -> Tensor:
        """``gain * (x - mean) + shift`` inside the box, `x` outside, for (B, C) numbers."""
        y = _Apply.apply(self.link, self.alias, self.x, self.box, self.mean, self.rest, gain, shift)
        return y if y.shape == self.shape else y.squeeze(-1)

    def exchanged(self, order: Tensor, dim: int) -> Tensor:
        """`x` inside the box with the style's statistics, `order` along `dim` saying whose."""
        content = (self.mean, self.std, self.rest)
        style = (self.style_mean, self.style_std)
        y = _Exchange.apply(self.link, self.alias, self.x, self.box, order, dim, *content, *style)
        return y if y.shape == self.shape else y.squeeze(-1)


class _Statistics(torch.autograd.Function):
    """x -> x', then mean, std and the mean's rounding error for each box."""

    @staticmethod
    def forward(
        ctx: Any, link: _Link, x: Tensor, eps: float, boxes: tuple[Box | None, ...]
    ) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = []
        for box in boxes:
            mean, rest, squares = backend(x).moments(x, box)
            std = squares.div_(max(positions(x, box) - 1, 1)).add_(eps).sqrt_()
            # Half precision has no digits that it would matter for.
            results += [mean, std, rest if x.dtype == mean.dtype else None]
        ctx.link, ctx.boxes = link, boxes
        ctx.save_for_backward(*results)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(r for r in results[2::3] if r is not None))
        return x.view_as(x), *results

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *grads: Tensor | None) -> Grads:
        link: _Link = ctx.link
        x = link.source if link.x is None else link.x
        gain, link.x, link.gain = link.gain, None, None
        if all(g is None for g in (dy, *grads)):
            return None, None, None, None
        assert x is not None
        saved = ctx.saved_tensors
        terms = []
        for i, box in enumerate(ctx.boxes):
            mean, std, rest = saved[3 * i : 3 * i + 3]
            n = positions(x, box)
            dmean, dstd = grads[3 * i : 3 * i + 2]
            slope = torch.zeros_like(std) if dstd is None else dstd / (std * max(n - 1, 1))
            offset = torch.zeros_like(std) if dmean is None else dmean / n
            offset = offset if rest is None else offset - slope * rest
            terms.append(Term(box, mean, slope, offset))
        if torch.is_grad_enabled() or dy is None or gain is None:
            return None, _plain_gradient(x, dy, gain, terms), None, None
        dx = backend(x).gradient(x, dy, gain, terms[0], terms[1] if len(terms) > 1 else None)
        return None, dx, None, None


class _Apply(torch.autograd.Function):
    """x', gain and shift -> y. The gradient it returns for x' is `dy`; see the file's head."""

    @staticmethod
    def forward(
        ctx: Any,
        link: _Link,
        alias: Tensor,
        x: Tensor,
        box: Box | None,
        mean: Tensor | None,
        rest: Tensor | None,
        gain: Tensor,
        shift: Tensor | None,
    ) -> Tensor:
        ctx.link, ctx.box = link, box
        ctx.save_for_backward(x, mean, rest, gain)
        return _affine(x, box, mean, rest, gain, shift)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Grads:
        x, mean, rest, gain = ctx.saved_tensors
        dmean = dgain = dshift = None
        dy = alike(dy, x)
        if any(ctx.needs_input_grad[i] for i in (4, 6, 7)):
            dgain, dshift = _products(x, dy, ctx.box, mean, rest)
        if dshift is not None:
            dmean = -gain * dshift
        if ctx.needs_input_grad[1]:
            ctx.link.leave(x, gain)
        return None, dy, None, None, dmean, None, dgain, dshift


class _Exchange(torch.autograd.Function):
    """x' and two pairs of statistics -> y: _Apply with another map's statistics.

    The gain is their quotient, and made again for the backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        link: _Link,
        alias: Tensor,
        x: Tensor,
        box: Box | None,
        order: Tensor,
        dim: int,
        mean: Tensor,
        std: Tensor,
        rest: Tensor | None,
        style_mean: Tensor,
        style_std: Tensor,
    ) -> Tensor:
        ctx.link, ctx.box, ctx.dim = link, box, dim
        ctx.save_for_backward(x, order, mean, std, rest, style_std)
        gain = style_std.index_select(dim, order).div_(std)
        return _affine(x, box, mean, rest, gain, style_mean.index_select(dim, order))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Grads:
        x, order, mean, std, rest, style_std = ctx.saved_tensors
        gain = style_std.index_select(ctx.dim, order) / std
        dy = alike(dy, x)
        dgain, dshift = _products(x, dy, ctx.box, mean, rest)
        assert dshift is not None
        scaled, zeros = dgain / std, torch.zeros_like(std)
        styles = (zeros.index_add(ctx.dim, order, part) for part in (dshift, scaled))
        if ctx.needs_input_grad[1]:
            ctx.link.leave(x, gain)
        own = (-gain * dshift, -gain * scaled)
        return None, dy, None, None, None, None, *own, None, *styles


def _affine(
    x: Tensor,
    box: Box | None,
    mean: Tensor | None,
    rest: Tensor | None,
    gain: Tensor,
    shift: Tensor | None,
) -> Tensor:
    if shift is not None and rest is not None:
        shift = torch.addcmul(shift, gain, rest, value=-1)
    return backend(x).affine(x, box, mean, gain, shift)


def _products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None, rest: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Of `dy` in the layout of `x`."""
    if torch.is_grad_enabled():
        return plain_products(x, dy, box, mean, rest)
    dgain, dshift = backend(x).products(x, dy, box, mean)
    if dshift is not None and rest is not None:
        dgain = torch.addcmul(dgain, dshift, rest, value=-1)
    return dgain, dshift


def _maps(c: Tensor) -> Tensor:
    return c[:, :, None, None]


def plain_products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None, rest: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What the kernels call products, in ordinary operations."""
    dtype = at_least_float32(x.dtype)
    x, dy = inside(x, box).to(dtype), inside(dy, box).to(dtype)
    if mean is None:
        return (dy * x).sum((2, 3)), None
    centred = x - _maps(mean)
    centred = centred if rest is None else centred - _maps(rest)
    return (dy * centred).sum((2, 3)), dy.sum((2, 3))


def _plain_gradient(
    x: Tensor,
    dy: Tensor | None,
    gain: Tensor | None,
    terms: list[Term],
) -> Tensor:
    dtype = at_least_float32(x.dtype)
    total = torch.zeros_like(x, dtype=dtype) if dy is None else dy.to(dtype)
    floats = x.to(dtype)
    for i, (box, mean, slope, offset) in enumerate(terms):
        place = inside(floats, box)
        term = _maps(slope) * (place - _maps(mean)) + _maps(offset)
        if i == 0 and dy is not None and gain is not None:
            term = term + (_maps(gain) - 1) * inside(dy, box)
        if box is not None:
            top, left, height, width = box
            right, bottom = x.shape[3] - left - width, x.shape[2] - top - height
            term = torch.nn.functional.pad(term, (left, right, top, bottom))
        total = total + term
    return total.to(x.dtype)
