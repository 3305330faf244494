"""timm's blocks of mobile networks: MobileNet V1 to V4, EfficientNet V1 and V2, MNASNet, FBNet, ...

There is no activation behind the sum, thus no site `out`; a block that changes the resolution or
the channels has no shortcut, and no site `identity`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import _efficientnet_blocks as blocks
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = [
    "SitedCondConvResidual",
    "SitedConvBnAct",
    "SitedDepthwiseSeparableConv",
    "SitedEdgeResidual",
    "SitedInvertedResidual",
    "SitedMobileAttention",
    "SitedUniversalInvertedResidual",
]


class _Skipping(SitedResidual):
    SITES = INNER_SITES
    DROP = "drop_path"
    SKIP = "has_skip"


class SitedConvBnAct(_Skipping, blocks.ConvBnAct):
    """A convolution."""

    BRANCH = ("conv", "bn1", "aa")
    OUT = "conv"


class SitedDepthwiseSeparableConv(_Skipping, blocks.DepthwiseSeparableConv):
    """A depthwise and a pointwise convolution."""

    BRANCH = ("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2")
    OUT = "conv_pw"


class SitedInvertedResidual(_Skipping, blocks.InvertedResidual):
    """Expansion, depthwise convolution, projection."""

    BRANCH = (
        *("conv_s2d", "bn_s2d", "conv_pw", "bn1"),
        *("conv_dw", "bn2", "aa", "se"),
        *("conv_pwl", "bn3"),
    )
    OUT = "conv_pwl"


class SitedCondConvResidual(_Skipping, blocks.CondConvResidual):
    """The same with convolutions mixed for each sample, by what comes after `pre`."""

    BRANCH = ("conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3")
    OUT = "conv_pwl"
    # The spaces-to-depth and anti-aliasing of its base, which it does not run.
    OTHERS = ("routing_fn", "conv_s2d", "bn_s2d", "aa")

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        if names != self.BRANCH:
            return super().chain(names, x)
        weights = torch.sigmoid(self.routing_fn(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        x = self.bn1(self.conv_pw(x, weights))
        x = self.se(self.bn2(self.conv_dw(x, weights)))
        return self.bn3(self.conv_pwl(x, weights))


class SitedEdgeResidual(_Skipping, blocks.EdgeResidual):
    """Expansion by a full convolution, projection."""

    BRANCH = ("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2")
    OUT = "conv_pwl"


class SitedUniversalInvertedResidual(_Skipping, blocks.UniversalInvertedResidual):
    """Expansion and projection with up to three depthwise convolutions around them."""

    BRANCH = ("dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale")
    OUT = "pw_proj"


class SitedMobileAttention(_Skipping, blocks.MobileAttention):
    """Attention over a map; the shortcut starts behind the positional encoding, as `pre` does."""

    BRANCH = ("norm", "attn", "layer_scale")
    OUT = "attn"
    OTHERS = ("conv_cpe_dw",)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.conv_cpe_dw is None else x + self.conv_cpe_dw(x))


register_block(blocks.CondConvResidual, SitedCondConvResidual)
register_block(blocks.ConvBnAct, SitedConvBnAct)
register_block(blocks.DepthwiseSeparableConv, SitedDepthwiseSeparableConv)
register_block(blocks.InvertedResidual, SitedInvertedResidual)
register_block(blocks.EdgeResidual, SitedEdgeResidual)
register_block(blocks.UniversalInvertedResidual, SitedUniversalInvertedResidual)
register_block(blocks.MobileAttention, SitedMobileAttention)
