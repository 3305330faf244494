"""The layers' forward and backward around the kernels.

CrossNorm is one autograd function: statistics, then application with the partner's. In SelfNorm
statistics and application are two, and what turns statistics into gains and shifts, on (B, C)
numbers, is ordinary autograd between them (where kernels do that too: :mod:`cnsn.kernels.gates`):

    x --> _Statistics --> mean, std --> gates --> gain, shift
                     \\--> x' ----------------------> _Apply --> y

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

from cnsn import functional
from cnsn.kernels.plain import plain_gradient, plain_products
from cnsn.kernels.regions import Box, Exchange, Moments, alike, as_images, dense, term

__all__ = ["Statistics", "backend", "exchanged"]

Grads = tuple[Tensor | None, ...]


def backend(x: Tensor) -> ModuleType:
    """The kernels for the device of `x`."""
    if x.is_cuda:
        from cnsn.kernels import gpu

        return gpu
    from cnsn.kernels import cpu

    return cpu


def exchanged(
    x: Tensor,
    order: Tensor,
    dim: int,
    eps: float,
    content_box: Box | None = None,
    style_box: Box | None = None,
) -> Tensor:
    """What :func:`cnsn.functional.exchange` returns. `order` may be on CPU, wherever `x` is.

    Boxes are not for (B, C, T, H, W).
    """
    if order.shape != x.shape[dim : dim + 1]:
        raise ValueError(
            f"Expected `order` to be of shape ({x.shape[dim]},), but got {tuple(order.shape)}."
        )
    y = _Exchange.apply(dense(as_images(x)), order, dim, eps, content_box, style_box)
    return y if y.ndim == x.ndim else y.view(x.shape)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        order: Tensor,
        dim: int,
        eps: float,
        content_box: Box | None,
        style_box: Box | None,
    ) -> Tensor:
        kernels, same = backend(x), content_box == style_box
        content = kernels.moments(x, content_box, eps)
        style = content if same else kernels.moments(x, style_box, eps)
        partners = kernels.partners(order, x.device)
        ctx.dim, ctx.eps, ctx.boxes = dim, eps, (content_box, style_box)
        ctx.save_for_backward(x, *content[1:], *style[1:], *partners)
        return kernels.exchange(x, Exchange(partners, dim, content, style))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Grads:
        x, *numbers = ctx.saved_tensors
        partners = numbers[6:]
        if torch.is_grad_enabled():
            y = functional.exchange(x, partners[0], ctx.dim, ctx.eps, *ctx.boxes)
            dx = torch.autograd.grad(y, x, dy, create_graph=True)[0]
        else:
            content, style = (
                Moments(box, *numbers[i : i + 3]) for box, i in zip(ctx.boxes, (0, 3), strict=True)
            )
            swap = Exchange(partners, ctx.dim, content, style)
            dx = backend(x).exchange_gradient(x, alike(dy, x), swap)
        return dx, None, None, None, None, None


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
        x: (B, C, L), (B, C, H, W) or (B, C, T, H, W), with at least one element.
        eps: added to the unbiased variance, inside the root.

    Attributes:
        mean, std: (B, C), float32 for half precision.
    """

    def __init__(self, x: Tensor, eps: float) -> None:
        self.shape = x.shape
        self.x = dense(as_images(x))
        self.link = _Link()
        self.alias, *numbers = _Statistics.apply(self.link, self.x, eps)
        self.mean, self.std, self.rest = numbers

    def scaled(self, gain: Tensor) -> Tensor:
        """``gain * x`` for a gain of (B, C)."""
        y = _Apply.apply(self.link, self.alias, self.x, None, None, gain, None)
        return y if y.ndim == len(self.shape) else y.view(self.shape)

    def restyled(self, gain: Tensor, shift: Tensor) -> Tensor:
        """``gain * (x - mean) + shift`` for (B, C) numbers."""
        y = _Apply.apply(self.link, self.alias, self.x, self.mean, self.rest, gain, shift)
        return y if y.ndim == len(self.shape) else y.view(self.shape)


class _Statistics(torch.autograd.Function):
    """x -> x', then mean, std and the mean's rounding error."""

    @staticmethod
    def forward(ctx: Any, link: _Link, x: Tensor, eps: float) -> tuple[Tensor | None, ...]:
        _, *numbers = backend(x).moments(x, None, eps)
        ctx.link = link
        ctx.save_for_backward(*numbers)
        ctx.set_materialize_grads(False)
        if numbers[2] is not None:
            ctx.mark_non_differentiable(numbers[2])
        return x.view_as(x), *numbers

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *grads: Tensor | None) -> Grads:
        link: _Link = ctx.link
        x = link.source if link.x is None else link.x
        gain, link.x, link.gain = link.gain, None, None
        if all(g is None for g in (dy, *grads)):
            return None, None, None
        assert x is not None
        moments = Moments(None, *ctx.saved_tensors)
        dmean, dstd = (torch.zeros_like(moments.std) if g is None else g for g in grads[:2])
        part = term(x, moments, dmean, dstd)
        if torch.is_grad_enabled() or dy is None or gain is None:
            return None, plain_gradient(x, dy, gain, part), None
        return None, backend(x).gradient(x, dy, gain, part), None


class _Apply(torch.autograd.Function):
    """x', gain and shift -> y. The gradient it returns for x' is `dy`; see the file's head."""

    @staticmethod
    def forward(
        ctx: Any,
        link: _Link,
        alias: Tensor,
        x: Tensor,
        mean: Tensor | None,
        rest: Tensor | None,
        gain: Tensor,
        shift: Tensor | None,
    ) -> Tensor:
        ctx.link = link
        ctx.save_for_backward(x, mean, rest, gain)
        if shift is not None and rest is not None:
            shift = torch.addcmul(shift, gain, rest, value=-1)
        return backend(x).affine(x, None, mean, gain, shift)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Grads:
        x, mean, rest, gain = ctx.saved_tensors
        dmean = dgain = dshift = None
        dy = alike(dy, x)
        if any(ctx.needs_input_grad[i] for i in (3, 5, 6)):
            dgain, dshift = _products(x, dy, mean, rest)
        if dshift is not None:
            dmean = -gain * dshift
        if ctx.needs_input_grad[1]:
            ctx.link.leave(x, gain)
        return None, dy, None, dmean, None, dgain, dshift


def _products(
    x: Tensor, dy: Tensor, mean: Tensor | None, rest: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Of `dy` in the layout of `x`."""
    if torch.is_grad_enabled():
        return plain_products(x, dy, None, mean, rest)
    dgain, dshift = backend(x).products(x, dy, None, mean)
    if dshift is not None and rest is not None:
        dgain = torch.addcmul(dgain, dshift, rest, value=-1)
    return dgain, dshift
