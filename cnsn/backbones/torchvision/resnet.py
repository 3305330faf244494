"""torchvision's residual blocks with the five sites: ResNet, ResNeXt, Wide ResNet."""

from __future__ import annotations

from torchvision.models import resnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedBasicBlock", "SitedBottleneck"]


class SitedBasicBlock(SitedResidual, resnet.BasicBlock):
    """Two convolutions."""

    BRANCH = ("conv1", "bn1", "relu", "conv2", "bn2")
    OUT = "conv2"
    SHORTCUT = "downsample"
    LAST = "relu"


class SitedBottleneck(SitedResidual, resnet.Bottleneck):
    """Three convolutions."""

    BRANCH = ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3")
    OUT = "conv3"
    SHORTCUT = "downsample"
    LAST = "relu"


register_block(resnet.BasicBlock, SitedBasicBlock)
register_block(resnet.Bottleneck, SitedBottleneck)
