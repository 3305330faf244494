"""DenseNet for small images, without bottlenecks (Huang et al. 2017, arXiv 1608.06993).

Parameter names as in the official CNSN code, so that its checkpoints load strictly. Sites of a
layer: `conv1_pre` is its input, which later layers see as well, and `conv1_post` the new channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.nets.initialisation import draw_convolutions
from cnsn.sites import SitedBlock

__all__ = ["DenseLayer", "DenseNet", "densenet40"]


class DenseLayer(SitedBlock):
    """BN-ReLU-conv; its `growth` new channels are appended to the input."""

    SITES: ClassVar[tuple[str, ...]] = ("conv1_pre", "conv1_post")

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def site_channels(self) -> Mapping[str, int]:
        return {"conv1_pre": self.conv1.in_channels, "conv1_post": self.conv1.out_channels}

    def forward(self, x: Tensor) -> Tensor:
        x = self.at("conv1_pre", x)
        new = self.at("conv1_post", self.conv1(F.relu(self.bn1(x))))
        return torch.cat((x, new), 1)


class Transition(nn.Module):
    """BN-ReLU-conv 1x1, then half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNet(nn.Module):
    """Input (B, 3, H, W), H and W at least 4; output (B, num_classes)."""

    def __init__(
        self,
        *,
        depth: int = 40,
        growth: int = 12,
        reduction: float = 1.0,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise ValueError(f"Expected `depth` to be 3 n + 4 with n from 1 on, but got {depth}.")
        if growth < 1 or num_classes < 1:
            raise ValueError(
                f"Expected `growth` and `num_classes` to be at least 1, but got {growth} and "
                f"{num_classes}."
            )
        if not 0.0 < reduction <= 1.0:
            raise ValueError(f"Expected `reduction` to be in (0, 1], but got {reduction}.")
        layers = (depth - 4) // 3

        def dense(channels: int) -> nn.Sequential:
            return nn.Sequential(
                *(DenseLayer(channels + i * growth, growth) for i in range(layers))
            )

        first = 2 * growth
        second = math.floor((first + layers * growth) * reduction)
        third = math.floor((second + layers * growth) * reduction)
        last = third + layers * growth
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.dense1 = dense(first)
        self.trans1 = Transition(first + layers * growth, second)
        self.dense2 = dense(second)
        self.trans2 = Transition(second + layers * growth, third)
        self.dense3 = dense(third)
        self.bn1 = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans1(self.dense1(self.conv1(x)))
        x = self.dense3(self.trans2(self.dense2(x)))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


def densenet40(*, num_classes: int = 10, growth: int = 12, reduction: float = 1.0) -> DenseNet:
    """DenseNet-40 with freshly drawn weights.

    Args:
        num_classes: outputs.
        growth: new channels of each layer.
        reduction: share of the channels that a transition keeps.

    Raises:
        ValueError: for an argument out of range.
    """
    return DenseNet(depth=40, growth=growth, reduction=reduction, num_classes=num_classes)
