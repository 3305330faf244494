"""CrossNorm and SelfNorm as they are usually published: what the benchmarks compare with.

Stock variance, a style map that is gathered before its statistics are taken, crops that are merged
through masks. The results are those of the layers in :mod:`cnsn` (tests/cnsn/kernels/test_fast.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TextbookCrossNorm", "TextbookSelfNorm"]

Box = tuple[int, int, int, int]


def mean_and_std(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    batch, channels = x.shape[:2]
    flat = x.reshape(batch, channels, -1)
    numbers = (batch, channels, *[1] * (x.ndim - 2))
    std = (flat.var(dim=2) + eps).sqrt().view(numbers)
    return flat.mean(dim=2).view(numbers), std


def restyle(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    style_mean, style_std = mean_and_std(style, eps)
    mean, std = mean_and_std(content, eps)
    normal = (content - mean.expand_as(content)) / std.expand_as(content)
    return normal * style_std.expand_as(content) + style_mean.expand_as(content)


class TextbookCrossNorm(nn.Module):
    """Always active; the caller draws the permutation and the boxes."""

    def forward(
        self, x: Tensor, order: Tensor, content: Box | None = None, style: Box | None = None
    ) -> Tensor:
        other = x[order]
        if style is not None:
            top, left, height, width = style
            other = other[..., top : top + height, left : left + width]
        if content is None:
            return restyle(x, other)
        top, left, height, width = content
        place = (..., slice(top, top + height), slice(left, left + width))
        changed = torch.zeros_like(x)
        changed[place] = restyle(x[place], other)
        mask = torch.ones_like(x)
        mask[place] = 0
        return x * mask + changed


class TextbookSelfNorm(nn.Module):
    """One-sided, with the parameters of :class:`cnsn.SelfNorm`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g_fc = nn.Conv1d(channels, channels, kernel_size=2, bias=False, groups=channels)
        self.g_bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = mean_and_std(x, 1e-12)
        statistics = torch.stack([mean.flatten(1), std.flatten(1)], dim=2)
        gain = torch.sigmoid(self.g_bn(self.g_fc(statistics)))
        return x * gain.view(mean.shape).expand_as(x)
