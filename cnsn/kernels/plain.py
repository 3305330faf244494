"""What the kernels compute, in ordinary operations: for gradients of gradients, and any tensor."""

from __future__ import annotations

from torch import Tensor

from cnsn.kernels.regions import Box, Term, at_least_float32, inside

__all__ = ["maps", "plain_gradient", "plain_products"]


def maps(c: Tensor) -> Tensor:
    """(B, C) numbers, in a shape that multiplies maps."""
    return c[:, :, None, None]


def plain_products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None, rest: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What the kernels call products, in ordinary operations."""
    dtype = at_least_float32(x.dtype)
    x, dy = inside(x, box).to(dtype), inside(dy, box).to(dtype)
    if mean is None:
        return (dy * x).sum((2, 3)), None
    centred = x - maps(mean)
    centred = centred if rest is None else centred - maps(rest)
    return (dy * centred).sum((2, 3)), dy.sum((2, 3))


def plain_gradient(x: Tensor, dy: Tensor | None, gain: Tensor | None, part: Term) -> Tensor:
    """What they call gradient; without a gain the gradient of `x` itself is `dy`."""
    dtype = at_least_float32(x.dtype)
    _, mean, slope, offset = part
    total = maps(slope) * (x.to(dtype) - maps(mean)) + maps(offset)
    if dy is not None:
        total = total + (dy if gain is None else maps(gain) * dy)
    return total.to(x.dtype)
