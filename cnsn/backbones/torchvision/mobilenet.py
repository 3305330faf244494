"""torchvision's inverted residuals: MobileNet V2 and V3, EfficientNet V1 and V2, MNASNet.

There is no activation behind the sum, thus no site `out`; a block that changes the resolution or
the channels has no shortcut, and no site `identity`. MobileNet's blocks lie side by side: one that
lowers the resolution begins a stage.
"""

from __future__ import annotations

from torchvision.models import efficientnet, mnasnet, mobilenetv2, mobilenetv3

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = [
    "SitedFusedMBConv",
    "SitedInvertedResidualV2",
    "SitedInvertedResidualV3",
    "SitedMBConv",
    "SitedMNASInvertedResidual",
]


class _Skipping(SitedResidual):
    SITES = INNER_SITES
    BRANCH = ("block",)
    OUT = "block"
    SKIP = "use_res_connect"

    def starts_stage(self) -> bool:
        return bool(getattr(self, "_is_cn", False))


class SitedInvertedResidualV2(_Skipping, mobilenetv2.InvertedResidual):
    """MobileNet V2's."""

    BRANCH = ("conv",)
    OUT = "conv"
    SHORTCUT_FIRST = True


class SitedInvertedResidualV3(_Skipping, mobilenetv3.InvertedResidual):
    """MobileNet V3's, with squeeze and excitation in some."""


class SitedMBConv(_Skipping, efficientnet.MBConv):
    """EfficientNet's."""

    DROP = "stochastic_depth"


class SitedFusedMBConv(_Skipping, efficientnet.FusedMBConv):
    """EfficientNetV2's, with one full convolution in the depthwise one's place."""

    DROP = "stochastic_depth"


class SitedMNASInvertedResidual(_Skipping, mnasnet._InvertedResidual):
    """MNASNet's."""

    BRANCH = ("layers",)
    OUT = "layers"
    SKIP = "apply_residual"


register_block(mobilenetv2.InvertedResidual, SitedInvertedResidualV2)
register_block(mobilenetv3.InvertedResidual, SitedInvertedResidualV3)
register_block(efficientnet.MBConv, SitedMBConv)
register_block(efficientnet.FusedMBConv, SitedFusedMBConv)
register_block(mnasnet._InvertedResidual, SitedMNASInvertedResidual)
