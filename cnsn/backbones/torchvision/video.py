"""torchvision's video ResNet blocks with the five sites: R3D, MC3, R(2+1)D.

Their maps are (B, C, T, H, W).
"""

from __future__ import annotations

from torchvision.models.video import resnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedBasicBlock", "SitedBottleneck"]


class SitedBasicBlock(SitedResidual, resnet.BasicBlock):
    """Two convolutions."""

    BRANCH = ("conv1", "conv2")
    OUT = "conv2"
    SHORTCUT = "downsample"
    LAST = "relu"


class SitedBottleneck(SitedResidual, resnet.Bottleneck):
    """Three convolutions."""

    BRANCH = ("conv1", "conv2", "conv3")
    OUT = "conv3"
    SHORTCUT = "downsample"
    LAST = "relu"


register_block(resnet.BasicBlock, SitedBasicBlock)
register_block(resnet.Bottleneck, SitedBottleneck)
