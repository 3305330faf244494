"""Wide residual network for small images (Zagoruyko & Komodakis 2016, arXiv 1605.07146).

Pre-activation blocks; parameter names as in the official CNSN code, so that its checkpoints load
strictly. Sites of a block: in one that changes channels, BN-ReLU comes first and feeds both branch
and shortcut, and `pre` sits after it, on the branch; in the others `pre` sits before BN.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.nets.initialisation import draw_convolutions
from cnsn.sites import SitedBlock

__all__ = ["WideBasicBlock", "WideResNet", "wide_resnet"]


def rectify(x: Tensor, negative_slope: float) -> Tensor:
    """ReLU, leaky where the slope is not 0."""
    return F.leaky_relu(x, negative_slope) if negative_slope else F.relu(x)


class WideBasicBlock(SitedBlock):
    """BN-ReLU-conv twice, plus the shortcut. The sum is the block's output: `out` equals `post`."""

    negative_slope = 0.0

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.dropout = dropout
        self.conv_shortcut: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def site_channels(self) -> Mapping[str, int]:
        out = self.conv2.out_channels
        return dict.fromkeys(self.SITES, out) | {"pre": self.conv1.in_channels}

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_shortcut is None:
            identity = x
            branch = rectify(self.bn1(self.at("pre", x)), self.negative_slope)
        else:
            activated = rectify(self.bn1(x), self.negative_slope)
            identity = self.conv_shortcut(activated)
            branch = self.at("pre", activated)
        branch = rectify(self.bn2(self.conv1(branch)), self.negative_slope)
        branch = F.dropout(branch, self.dropout, self.training)
        branch = self.conv2(branch)
        total = self.at("residual", branch) + self.at("identity", identity)
        return self.at("out", self.at("post", total))


class WideStage(nn.Module):
    """Blocks of one width; only the first changes channels and resolution."""

    def __init__(
        self, in_channels: int, out_channels: int, *, blocks: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        first = WideBasicBlock(in_channels, out_channels, stride=stride, dropout=dropout)
        others = (
            WideBasicBlock(out_channels, out_channels, stride=1, dropout=dropout)
            for _ in range(blocks - 1)
        )
        self.layer = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Input (B, 3, H, W), H and W at least 4; output (B, num_classes)."""

    def __init__(
        self,
        *,
        depth: int = 40,
        width: int = 2,
        num_classes: int = 10,
        dropout: float = 0.0,
        negative_slope: float = 0.0,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"Expected `depth` to be 6 n + 4 with n from 1 on, but got {depth}.")
        if width < 1 or num_classes < 1:
            raise ValueError(
                f"Expected `width` and `num_classes` to be at least 1, but got {width} and "
                f"{num_classes}."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"Expected `dropout` to be in [0, 1), but got {dropout}.")
        if not 0.0 <= negative_slope < 1.0:
            raise ValueError(
                f"Expected `negative_slope` to be in [0, 1), but got {negative_slope}."
            )
        if not 0.0 < bn_momentum <= 1.0:
            raise ValueError(f"Expected `bn_momentum` to be in (0, 1], but got {bn_momentum}.")
        blocks = (depth - 4) // 6
        channels = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        stage = partial(WideStage, blocks=blocks, dropout=dropout)
        self.block1 = stage(channels[0], channels[1], stride=1)
        self.block2 = stage(channels[1], channels[2], stride=2)
        self.block3 = stage(channels[2], channels[3], stride=2)
        self.bn1 = nn.BatchNorm2d(channels[3])
        self.fc = nn.Linear(channels[3], num_classes)
        self.negative_slope = negative_slope
        for module in self.modules():
            if isinstance(module, WideBasicBlock):
                module.negative_slope = negative_slope
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = rectify(self.bn1(x), self.negative_slope)
        return self.fc(x.mean((2, 3)))


def wide_resnet(
    *,
    depth: int = 40,
    width: int = 2,
    num_classes: int = 10,
    dropout: float = 0.0,
    negative_slope: float = 0.0,
    bn_momentum: float = 0.1,
) -> WideResNet:
    """WideResNet-`depth`-`width` with freshly drawn weights.

    Args:
        depth: 6 n + 4 with n blocks a stage.
        width: factor on the channels 16, 32, 64.
        num_classes: outputs.
        dropout: between the two convolutions of a block; the paper's recipe uses none.
        negative_slope: of the activations; FixMatch's networks have 0.1.
        bn_momentum: weight of a batch in the running statistics; FixMatch's networks have 0.001.

    Raises:
        ValueError: for a depth of another form or an argument out of range.
    """
    return WideResNet(
        depth=depth,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
        negative_slope=negative_slope,
        bn_momentum=bn_momentum,
    )
