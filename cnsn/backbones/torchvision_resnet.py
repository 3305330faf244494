"""torchvision's residual blocks with the five sites: ResNet, ResNeXt, Wide ResNet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import resnet

from cnsn.backbones import register_block
from cnsn.sites import SitedBlock

__all__ = ["SitedBasicBlock", "SitedBottleneck"]


class SitedBasicBlock(SitedBlock, resnet.BasicBlock):
    """torchvision's two-convolution residual block, with sites."""

    conv1: nn.Conv2d
    bn1: nn.Module
    conv2: nn.Conv2d
    bn2: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    def site_channels(self) -> Mapping[str, int]:
        out = self.conv2.out_channels
        return dict.fromkeys(self.SITES, out) | {"pre": self.conv1.in_channels}

    def forward(self, x: Tensor) -> Tensor:
        branch = self.at("pre", x)
        branch = self.relu(self.bn1(self.conv1(branch)))
        branch = self.bn2(self.conv2(branch))
        return _merge(self, x, branch)


class SitedBottleneck(SitedBlock, resnet.Bottleneck):
    """torchvision's three-convolution residual block, with sites."""

    conv1: nn.Conv2d
    bn1: nn.Module
    conv2: nn.Conv2d
    bn2: nn.Module
    conv3: nn.Conv2d
    bn3: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    def site_channels(self) -> Mapping[str, int]:
        out = self.conv3.out_channels
        return dict.fromkeys(self.SITES, out) | {"pre": self.conv1.in_channels}

    def forward(self, x: Tensor) -> Tensor:
        branch = self.at("pre", x)
        branch = self.relu(self.bn1(self.conv1(branch)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return _merge(self, x, branch)


def _merge(block: SitedBasicBlock | SitedBottleneck, x: Tensor, branch: Tensor) -> Tensor:
    identity = x if block.downsample is None else block.downsample(x)
    total = block.at("residual", branch) + block.at("identity", identity)
    return block.at("out", block.relu(block.at("post", total)))


register_block(resnet.BasicBlock, SitedBasicBlock)
register_block(resnet.Bottleneck, SitedBottleneck)
