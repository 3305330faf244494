"""ResNeXt for small images (Xie et al. 2017, arXiv 1611.05431).

Parameter names as in the official CNSN code, so that its checkpoints load strictly. Sites of a
block: its `post` (after the last activation) is `out` here. What `pre` makes of the input also
enters the projection of the shortcut, where there is one, as in that code; a shortcut without
projection takes the input itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.nets.initialisation import draw_convolutions
from cnsn.sites import SitedBlock

__all__ = ["ResNeXt", "ResNeXtBlock", "resnext29"]

EXPANSION = 4


class ResNeXtBlock(SitedBlock):
    """1x1, grouped 3x3 and 1x1 convolution, plus the shortcut."""

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, *, groups: int, stride: int
    ):
        super().__init__()
        self.conv_reduce = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def site_channels(self) -> Mapping[str, int]:
        out = self.conv_expand.out_channels
        return dict.fromkeys(self.SITES, out) | {"pre": self.conv_reduce.in_channels}

    def forward(self, x: Tensor) -> Tensor:
        entered = self.at("pre", x)
        branch = F.relu(self.bn_reduce(self.conv_reduce(entered)))
        branch = F.relu(self.bn(self.conv_conv(branch)))
        branch = self.bn_expand(self.conv_expand(branch))
        identity = x if self.downsample is None else self.downsample(entered)
        total = self.at("residual", branch) + self.at("identity", identity)
        return self.at("out", F.relu(self.at("post", total)))


def _stage(
    in_channels: int, inner: int, out_channels: int, *, blocks: int, groups: int, stride: int
) -> nn.Sequential:
    """Blocks of one width; only the first changes channels and resolution."""
    first = ResNeXtBlock(in_channels, inner, out_channels, groups=groups, stride=stride)
    others = (
        ResNeXtBlock(out_channels, inner, out_channels, groups=groups, stride=1)
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *others)


class ResNeXt(nn.Module):
    """Input (B, 3, H, W); output (B, num_classes)."""

    def __init__(
        self,
        *,
        depth: int = 29,
        cardinality: int = 4,
        base_width: int = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"Expected `depth` to be 9 n + 2 with n from 1 on, but got {depth}.")
        if min(cardinality, base_width, num_classes) < 1:
            raise ValueError(
                "Expected `cardinality`, `base_width` and `num_classes` to be at least 1, but got "
                f"{cardinality}, {base_width} and {num_classes}."
            )
        self.conv_1_3x3 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        # The width of a group: `base_width` in the first stage, doubled in each later one.
        stage = partial(_stage, blocks=(depth - 2) // 9, groups=cardinality)
        inner = base_width * cardinality
        self.stage_1 = stage(64, inner, 64 * EXPANSION, stride=1)
        self.stage_2 = stage(64 * EXPANSION, 2 * inner, 128 * EXPANSION, stride=2)
        self.stage_3 = stage(128 * EXPANSION, 4 * inner, 256 * EXPANSION, stride=2)
        self.classifier = nn.Linear(256 * EXPANSION, num_classes)
        draw_convolutions(self)
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_1(self.conv_1_3x3(x)))
        x = self.stage_3(self.stage_2(self.stage_1(x)))
        return self.classifier(x.mean((2, 3)))


def resnext29(*, num_classes: int = 10, cardinality: int = 4, base_width: int = 32) -> ResNeXt:
    """ResNeXt-29 with freshly drawn weights.

    Args:
        num_classes: outputs.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels of a group in the first stage; later stages double it.

    Raises:
        ValueError: for an argument below 1.
    """
    return ResNeXt(
        depth=29, cardinality=cardinality, base_width=base_width, num_classes=num_classes
    )
