"""timm's blocks that normalise first: ResNetV2 (BiT) and the pre-activated RegNets (RegNetV).

There is no activation behind the sum, thus no site `out`.
"""

from __future__ import annotations

from timm.models import regnet, resnetv2
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedPreactivation, SitedResidual

__all__ = ["SitedPreActBasic", "SitedPreActBottleneck", "SitedPreBottleneck"]


class SitedPreActBasic(SitedPreactivation, resnetv2.PreActBasic):
    """Two convolutions."""

    OTHERS = ("norm1",)
    BRANCH = ("conv1", "norm2", "conv2")
    OUT = "conv2"
    DROP = "drop_path"
    SHORTCUT = "downsample"


class SitedPreActBottleneck(SitedPreactivation, resnetv2.PreActBottleneck):
    """Three convolutions."""

    OTHERS = ("norm1",)
    BRANCH = ("conv1", "norm2", "conv2", "norm3", "conv3")
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"


class SitedPreBottleneck(SitedResidual, regnet.PreBottleneck):
    """Three convolutions; the shortcut always starts behind the normalisation, as `pre` does."""

    SITES = INNER_SITES
    BRANCH = ("conv1", "norm2", "conv2", "se", "norm3", "conv3")
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"
    SKIP = "downsample"
    OTHERS = ("norm1",)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm1(x))


register_block(resnetv2.PreActBasic, SitedPreActBasic)
register_block(resnetv2.PreActBottleneck, SitedPreActBottleneck)
register_block(regnet.PreBottleneck, SitedPreBottleneck)
