"""timm's blocks of its freely configured networks (ByobNet) with the five sites.

GENet, RegNetZ of the larger kind, resnet33ts and its like, Bottleneck Transformers, Halo and Lambda
networks. RepVGG's and MobileOne's blocks, which are fused for deployment, have none.
"""

from __future__ import annotations

from timm.models import byobnet
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = [
    "SitedBasicBlock",
    "SitedBottleneckBlock",
    "SitedDarkBlock",
    "SitedEdgeBlock",
    "SitedSelfAttnBlock",
]


class _Byob(SitedResidual):
    DROP = "drop_path"
    SHORTCUT = "shortcut"
    LAST = "act"
    SKIP = "shortcut"

    def merge(self, branch: Tensor, identity: Tensor | None) -> Tensor:
        # Here stochastic depth acts without a shortcut as well.
        return super().merge(self.drop_path(branch) if identity is None else branch, identity)


class SitedBasicBlock(_Byob, byobnet.BasicBlock):
    """Two full convolutions."""

    BRANCH = ("conv1_kxk", "attn", "conv2_kxk", "attn_last")
    OUT = "conv2_kxk"


class SitedBottleneckBlock(_Byob, byobnet.BottleneckBlock):
    """Three convolutions or four."""

    BRANCH = ("conv1_1x1", "conv2_kxk", "conv2b_kxk", "attn", "conv3_1x1", "attn_last")
    OUT = "conv3_1x1"


class SitedDarkBlock(_Byob, byobnet.DarkBlock):
    """A pointwise and a full convolution."""

    BRANCH = ("conv1_1x1", "attn", "conv2_kxk", "attn_last")
    OUT = "conv2_kxk"


class SitedEdgeBlock(_Byob, byobnet.EdgeBlock):
    """A full and a pointwise convolution."""

    BRANCH = ("conv1_kxk", "attn", "conv2_1x1", "attn_last")
    OUT = "conv2_1x1"


class SitedSelfAttnBlock(_Byob, byobnet.SelfAttnBlock):
    """Attention over the map between two pointwise convolutions."""

    BRANCH = ("conv1_1x1", "conv2_kxk", "self_attn", "post_attn", "conv3_1x1")
    OUT = "conv3_1x1"


register_block(byobnet.BasicBlock, SitedBasicBlock)
register_block(byobnet.BottleneckBlock, SitedBottleneckBlock)
register_block(byobnet.DarkBlock, SitedDarkBlock)
register_block(byobnet.EdgeBlock, SitedEdgeBlock)
register_block(byobnet.SelfAttnBlock, SitedSelfAttnBlock)
