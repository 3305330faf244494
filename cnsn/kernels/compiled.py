"""The layers inside compiled graphs.

CrossNorm: one graph, whatever is drawn and whichever sites are active. What changes from step to
step (whether the site is active, rows, partners, boxes) must not be seen by the compiler, which
would compile again for each. So two operators that it cannot look into draw and reduce, and return
(B, C) numbers and boxes as tensors. All else is elementwise and fuses with the network around it.
At an inactive site the operators read nothing, and mean 0, std 1 and empty boxes make the same
graph the identity.

SelfNorm: its statistics with a gradient of their own. What a compiler derives from the reference
writes one more map, and computes roots and quotients of (B, C) numbers at every position.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cnsn.functional import instance_stats
from cnsn.kernels import autograd, dispatch
from cnsn.kernels.plain import maps, plain_products
from cnsn.kernels.regions import (
    Box,
    alike,
    as_images,
    at_least_float32,
    dense,
    full_box,
    inside,
    to_device,
)
from cnsn.recomputation import Layer, as_in_forward

__all__ = ["Site", "exchange", "register", "traced_statistics"]


class Site(Layer, Protocol):
    """What the operators ask of a CrossNorm."""

    eps: float

    def draw(self, shape: torch.Size) -> tuple[Tensor, Box | None, Box | None]: ...

    @property
    def dim(self) -> int: ...


_sites: WeakValueDictionary[int, Any] = WeakValueDictionary()
_count = itertools.count()


def register(site: Site) -> Tensor:
    """A number by which the operators find `site`, as a tensor: no graph depends on its value."""
    number = next(_count)
    _sites[number] = site
    return torch.tensor(number, device="cpu")


def exchange(x: Tensor, site: Tensor, boxed: bool) -> Tensor:
    """What the CrossNorm that was registered as `site` makes of (B, C, ...)."""
    return _Exchange.apply(as_images(x), site, boxed).view(x.shape)


def traced_statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """What :func:`cnsn.functional.instance_stats` returns, for a graph that is being traced."""
    return _TracedStatistics.apply(x, eps)


class _TracedStatistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        dims, n = tuple(range(2, x.ndim)), math.prod(x.shape[2:])
        floats = x.to(at_least_float32(x.dtype))
        mean = floats.mean(dims, keepdim=True)
        deviation = floats - mean
        # The mean is rounded; see the reference.
        rest = deviation.mean(dims, keepdim=True)
        squares = deviation.square().sum(dims, keepdim=True) - n * rest.square()
        std = (squares.clamp(min=0) / max(n - 1, 1) + eps).sqrt()
        ctx.save_for_backward(x, mean, rest, std)
        return mean, std

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dstd: Tensor) -> tuple[Tensor, None]:
        x, mean, rest, std = ctx.saved_tensors
        n = math.prod(x.shape[2:])
        slope = _in_memory(dstd / (std * max(n - 1, 1)))
        offset = _in_memory(dmean / n - slope * rest)
        return (slope * (x.to(mean.dtype) - mean) + offset).to(x.dtype), None


def _in_memory(c: Tensor) -> Tensor:
    """Numbers that the compiler must not compute again at every position where they are used."""
    return c.as_strided(c.shape, c.stride())


@torch.library.custom_op(
    "cnsn::draw_statistics", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def draw_statistics(
    x: Tensor, site: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Statistics of content and style, whose style each channel takes, boxes, and the plan.

    Returns:
        mean, std, style_mean, style_std: (B, C). order: (B * C,), which channel of which sample
        gives its style. boxes: the content's and the style's, 8 numbers on the device of `x`. plan:
        on CPU, for :func:`content_products`: first row, row behind the last, the content's box.
    """
    layer: Site = _sites[int(site)]
    with as_in_forward(layer):
        return _drawn_statistics(x, layer)


def _drawn_statistics(
    x: Tensor, layer: Site
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, channels = x.shape[:2]
    numbers: dict[str, Any] = {"dtype": at_least_float32(x.dtype), "device": x.device}
    content_mean, style_mean = (torch.zeros(batch, channels, **numbers) for _ in range(2))
    content_std, style_std = (torch.ones(batch, channels, **numbers) for _ in range(2))
    if not layer.active:
        order = torch.arange(batch * channels, device=x.device)
        boxes, plan = order.new_zeros(8), torch.zeros(6, dtype=torch.int64, device="cpu")
        return content_mean, content_std, style_mean, style_std, order, boxes, plan
    start, stop, _ = (layer.rows or slice(None)).indices(batch)
    rows = dense(x[start:stop])
    partners, content, style = layer.draw(rows.shape)
    order = torch.arange(batch * channels, device="cpu")
    own = order.view(batch, channels)[start:stop]
    own.copy_(own.index_select(layer.dim, partners.cpu()))
    found = _mean_and_std(rows, content, layer.eps)
    content_mean[start:stop], content_std[start:stop] = found
    if content != style:
        found = _mean_and_std(rows, style, layer.eps)
    style_mean[start:stop], style_std[start:stop] = found
    places = (*(content or full_box(x)), *(style or full_box(x)))
    plan, edges = (torch.tensor(t, device="cpu") for t in ((start, stop, *places[:4]), places))
    order, boxes = (to_device(t, x.device) for t in (order, edges))
    return content_mean, content_std, style_mean, style_std, order, boxes, plan


@draw_statistics.register_fake
def _(x: Tensor, site: Tensor) -> tuple[Tensor, ...]:
    numbers = [x.new_empty(x.shape[:2], dtype=at_least_float32(x.dtype)) for _ in range(4)]
    order = x.new_empty(x.shape[0] * x.shape[1], dtype=torch.int64)
    plan = torch.empty(6, dtype=torch.int64, device="cpu")
    return *numbers, order, x.new_empty(8, dtype=torch.int64), plan


def _mean_and_std(x: Tensor, box: Box | None, eps: float) -> tuple[Tensor, Tensor]:
    if dispatch.suit(x):
        found = autograd.backend(x).moments(x, box, eps)
        return found.mean, found.std
    mean, std = instance_stats(inside(x, box), eps)
    return mean.flatten(1), std.flatten(1)


@torch.library.custom_op("cnsn::content_products", mutates_args=())
def content_products(x: Tensor, dy: Tensor, mean: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the content's box of ``dy * (x - mean)`` and ``dy``; 0 where nothing changed."""
    start, stop, *box = plan.tolist()
    weighted, plain = torch.zeros_like(mean), torch.zeros_like(mean)
    if stop > start:
        rows = slice(start, stop)
        place: Box | None = (box[0], box[1], box[2], box[3])
        place = None if place == full_box(x) else place
        part = dense(x[rows])
        grad = alike(dy[rows], part)
        if dispatch.suit(part):
            sums = autograd.backend(part).products(part, grad, place, mean[rows].contiguous())
        else:
            sums = plain_products(part, grad, place, mean[rows], None)
        weighted[rows], plain[rows] = sums
    return weighted, plain


@content_products.register_fake
def _(x: Tensor, dy: Tensor, mean: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(mean), torch.empty_like(mean)


def _contains(box: Tensor, x: Tensor) -> Tensor:
    """(H, W): which positions of `x` lie in the box."""
    y = torch.arange(x.shape[2], device=x.device)[:, None]
    z = torch.arange(x.shape[3], device=x.device)
    top, left, height, width = box.unbind()
    return (y >= top) & (y < top + height) & (z >= left) & (z < left + width)


class _Exchange(torch.autograd.Function):
    """Only traced, so that the compiler derives one graph each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, site: Tensor, boxed: bool) -> Tensor:
        mean, std, style_mean, style_std, order, boxes, plan = draw_statistics(x, site)
        ctx.save_for_backward(x, mean, std, style_mean, style_std, order, boxes, plan)
        ctx.boxed = boxed
        gain = style_std.flatten()[order].view_as(std) / std
        shift = style_mean.flatten()[order].view_as(std)
        y = (maps(gain) * (x.to(mean.dtype) - maps(mean)) + maps(shift)).to(x.dtype)
        return torch.where(_contains(boxes[:4], x), y, x) if boxed else y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, mean, std, style_mean, style_std, order, boxes, plan = ctx.saved_tensors
        weighted, plain = content_products(x, dy, mean, plan)
        gain = style_std.flatten()[order].view_as(std) / std
        dmean, dstd = -gain * plain, -gain * weighted / std
        zeros = torch.zeros_like(std).flatten()
        style_dmean = zeros.index_add(0, order, plain.flatten()).view_as(std)
        style_dstd = zeros.index_add(0, order, (weighted / std).flatten()).view_as(std)
        floats, grad = x.to(mean.dtype), dy.to(mean.dtype)

        def term(mean: Tensor, std: Tensor, dmean: Tensor, dstd: Tensor, n: Tensor) -> Tensor:
            slope, offset = dstd / (std * (n - 1)), dmean / n
            return maps(slope) * (floats - maps(mean)) + maps(offset)

        if not ctx.boxed:
            n = torch.full_like(std[:1, :1], x.shape[2] * x.shape[3])
            dx = term(mean, std, dmean + style_dmean, dstd + style_dstd, n) + maps(gain) * grad
            return dx.to(x.dtype), None, None
        n, style_n = (boxes[2::4] * boxes[3::4]).clamp(min=2).to(std.dtype).unbind()
        dx = term(mean, std, dmean, dstd, n) + maps(gain) * grad
        dx = torch.where(_contains(boxes[:4], x), dx, grad)
        style = term(style_mean, style_std, style_dmean, style_dstd, style_n)
        dx = dx + torch.where(_contains(boxes[4:], x), style, 0)
        return dx.to(x.dtype), None, None
