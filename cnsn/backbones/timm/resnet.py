"""timm's residual blocks with the five sites: ResNet-D, SE- and ECA-ResNet, ResNeXt, HRNet, ..."""

from __future__ import annotations

from timm.models import resnet, resnetv2

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedBasicBlock", "SitedBottleneck", "SitedHybridBottleneck"]


class SitedBasicBlock(SitedResidual, resnet.BasicBlock):
    """Two convolutions; attention and anti-aliasing where the network has them."""

    BRANCH = ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se")
    OUT = "conv2"
    DROP = "drop_path"
    SHORTCUT = "downsample"
    LAST = "act2"


class SitedBottleneck(SitedResidual, resnet.Bottleneck):
    """Three convolutions; attention and anti-aliasing where the network has them."""

    BRANCH = (
        *("conv1", "bn1", "act1"),
        *("conv2", "bn2", "drop_block", "act2", "aa"),
        *("conv3", "bn3", "se"),
    )
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"
    LAST = "act3"


class SitedHybridBottleneck(SitedResidual, resnetv2.Bottleneck):
    """Three convolutions, of the stem of hybrid vision transformers."""

    BRANCH = ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3")
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"
    LAST = "act3"


register_block(resnet.BasicBlock, SitedBasicBlock)
register_block(resnet.Bottleneck, SitedBottleneck)
register_block(resnetv2.Bottleneck, SitedHybridBottleneck)
