"""torchvision's RegNet block with the five sites: RegNetX and RegNetY."""

from __future__ import annotations

from torchvision.models import regnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedResBottleneckBlock"]


class SitedResBottleneckBlock(SitedResidual, regnet.ResBottleneckBlock):
    """Three convolutions, the middle one grouped."""

    BRANCH = ("f",)
    OUT = "f"
    SHORTCUT = "proj"
    LAST = "activation"
    SHORTCUT_FIRST = True


register_block(regnet.ResBottleneckBlock, SitedResBottleneckBlock)
