"""timm's RegNet blocks with the five sites: RegNetX, RegNetY, RegNetZ."""

from __future__ import annotations

from timm.models import regnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedBottleneck"]


class SitedBottleneck(SitedResidual, regnet.Bottleneck):
    """Three convolutions, the middle one grouped; some RegNetZ blocks have no shortcut."""

    BRANCH = ("conv1", "conv2", "se", "conv3")
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"
    LAST = "act3"
    SKIP = "downsample"


register_block(regnet.Bottleneck, SitedBottleneck)
