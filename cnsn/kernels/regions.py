"""What the kernels on every device agree on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Box",
    "Exchange",
    "Gate",
    "Moments",
    "Term",
    "alike",
    "as_images",
    "at_least_float32",
    "dense",
    "full_box",
    "inside",
    "is_channels_last",
    "positions",
    "term",
    "to_device",
]

# Top, left, height and width. None, wherever a box is asked for, is the whole map.
Box = tuple[int, int, int, int]


class Moments(NamedTuple):
    """Statistics of a box: (B, C) numbers. The rest, if any, is the mean's rounding error."""

    box: Box | None
    mean: Tensor
    std: Tensor
    rest: Tensor | None


class Exchange(NamedTuple):
    """Who takes whose style.

    Attributes:
        partners: what the kernels make of the order, which says whose style each takes.
        dim: that of the order, 0 or 1 of (B, C).
        content: the statistics that are taken off, in the box that is restyled.
        style: the statistics that are given away.
    """

    partners: tuple[Tensor, ...]
    dim: int
    content: Moments
    style: Moments


class Gate(NamedTuple):
    """What makes a gate of SelfNorm from mean and std: (C,) numbers, and `fc` of (C, 1, 2).

    Attributes:
        mean, variance: what its batch norm normalises by, or its running statistics.
        batch: None, or, if the batch's statistics are to be taken, the batches so far (a counter
            that is moved on, as are the running statistics) and the momentum.
    """

    fc: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float
    batch: tuple[Tensor, float] | None


class Term(NamedTuple):
    """``slope * (x - mean) + offset`` in a box: what statistics add to a gradient."""

    box: Box | None
    mean: Tensor
    slope: Tensor
    offset: Tensor


def positions(x: Tensor, box: Box | None) -> int:
    """How many positions of each map (B, C, H, W) lie in `box`."""
    return x.shape[2] * x.shape[3] if box is None else box[2] * box[3]


def term(x: Tensor, moments: Moments, dmean: Tensor, dstd: Tensor) -> Term:
    """What the gradients of `moments` add to that of `x`."""
    box, mean, std, rest = moments
    n = positions(x, box)
    slope, offset = dstd / (std * max(n - 1, 1)), dmean / n
    return Term(box, mean, slope, offset if rest is None else offset - slope * rest)


def full_box(x: Tensor) -> Box:
    """The box that holds all of (B, C, H, W)."""
    return 0, 0, x.shape[2], x.shape[3]


def inside(x: Tensor, box: Box | None) -> Tensor:
    """The view of (B, C, H, W) that `box` cuts out."""
    if box is None:
        return x
    top, left, height, width = box
    return x[:, :, top : top + height, left : left + width]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype that maps of `dtype` are computed in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of (B, C, H, W) are neighbours in memory."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def as_images(x: Tensor) -> Tensor:
    """(B, C, L), (B, C, H, W) or (B, C, T, H, W) as (B, C, H, W).

    A sequence is a map one position wide, a video a map of T * H rows.
    """
    if x.ndim == 4:
        return x
    return x.unsqueeze(-1) if x.ndim == 3 else x.flatten(2, 3)


def dense(x: Tensor) -> Tensor:
    """(B, C, H, W), contiguous or channels_last: `x` itself if it is, else a copy."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    # Part of the tokens, or of the samples' positions, is still channels-last.
    last = x.stride(1) == 1 and x.shape[1] > 1
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def alike(dy: Tensor, x: Tensor) -> Tensor:
    """`dy` in the layout of `x`; gradients may come expanded or in another one."""
    last = is_channels_last(x)
    return dy.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def to_device(t: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`, without waiting for a GPU."""
    if device.type == "cuda" and t.device.type == "cpu":
        t = t.pin_memory()
    return t.to(device, non_blocking=True)
