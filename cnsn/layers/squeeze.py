"""Gates that look at all channels at once: Squeeze-and-Excitation, the same with spreads, and ECA.

    SE          y = sigmoid(W2 relu(W1 mu)) x
    style SE    y = sigmoid(W2 relu(W1 [mu, sigma])) x
    ECA         y = sigmoid(conv1d over the channels of mu) x

Sources: Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507; Wang et al., "ECA-Net", CVPR 2020,
https://arxiv.org/abs/1910.03151. Style SE is SelfNorm with a richer attention, our definition.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cnsn.layers.base import Gate
from cnsn.layers.statistics import through_statistics

__all__ = ["ECA", "SE", "StatisticsGate", "StyleSE", "check_reduction"]


class StatisticsGate(Gate):
    """A gate that :meth:`numbers` makes of the statistics."""

    eps = 1e-12

    def numbers(
        self, mean: Tensor, std: Tensor, count: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Gain and shift; see :data:`cnsn.layers.statistics.Rule`."""
        raise NotImplementedError

    def rescale(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return through_statistics(x, mask, self.eps, self.numbers)


class SE(StatisticsGate):
    """Rescales each channel by a gate learnt from the means of all.

    Args:
        channels: C of the input.
        reduction: of the channels in between, C // reduction of them; the paper has 16.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape: see :class:`cnsn.layers.base.Gate`.

    Raises:
        ValueError: `reduction` is not from 1 to the number of channels.
    """

    WITH_STD = False

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channels, channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        check_reduction(reduction, channels)
        self.fc1 = nn.Linear(channels * (1 + self.WITH_STD), channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def numbers(
        self, mean: Tensor, std: Tensor, count: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return self.gain(torch.cat([mean, std], 1) if self.WITH_STD else mean), None

    def gain(self, numbers: Tensor) -> Tensor:
        """Gates (B, C) of what describes the channels, in float32 under autocast too."""
        with torch.autocast(numbers.device.type, enabled=False):
            hidden = self.fc1(numbers.to(self.fc1.weight.dtype)).relu()
            return torch.sigmoid(self.fc2(hidden).to(numbers.dtype))

    def open(self, moved: float) -> None:
        """Let the gates begin at ``1 - moved``; `fc1` learns once `fc2` has begun to."""
        nn.init.zeros_(self.fc2.weight)
        nn.init.constant_(self.fc2.bias, math.log((1 - moved) / moved))

    def extra_repr(self) -> str:
        return f"{self.channels}{self.layout_repr()}"


class StyleSE(SE):
    """Rescales each channel by a gate learnt from the means and standard deviations of all.

    Args and shape: see :class:`cnsn.SE`.
    """

    WITH_STD = True


class ECA(StatisticsGate):
    """Rescales each channel by a gate learnt from the means of its neighbours.

    Args:
        channels: C of the input; the more, the wider the neighbourhood, as in timm: the odd number
            at or above ``(log2(C) + 1) / 2``, rounded down, and at least 3.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape: see :class:`cnsn.layers.base.Gate`. Without a bias it has no open start.
    """

    def __init__(self, channels: int, *, channel_dim: int = 1, prefix_tokens: int = 0) -> None:
        super().__init__(channels, channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        size = max(int((math.log2(channels) + 1) / 2) | 1, 3)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def numbers(
        self, mean: Tensor, std: Tensor, count: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(mean.device.type, enabled=False):
            score = self.conv(mean[:, None].to(self.conv.weight.dtype))[:, 0]
        return torch.sigmoid(score.to(mean.dtype)), None

    def extra_repr(self) -> str:
        return f"{self.channels}{self.layout_repr()}"


def check_reduction(reduction: int, channels: int | None = None) -> None:
    """Raise ValueError where nothing would be left of the channels, if their number is known."""
    if reduction < 1 or (channels is not None and reduction > channels):
        most = "" if channels is None else f" and at most {channels}, the number of channels"
        raise ValueError(f"Expected `reduction` to be at least 1{most}, but got {reduction}.")
