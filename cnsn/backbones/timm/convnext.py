"""timm's ConvNeXt blocks, of both versions; they take and give (B, C, H, W).

There is no activation behind the sum, thus no site `out`.
"""

from __future__ import annotations

from timm.models import convnext
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedConvNeXtBlock"]


class SitedConvNeXtBlock(SitedResidual, convnext.ConvNeXtBlock):
    """Depthwise convolution and two linear layers; `residual` is behind their scale."""

    SITES = INNER_SITES
    BRANCH = ("conv_dw", "norm", "mlp")
    OUT = "conv_dw"
    DROP = "drop_path"
    SHORTCUT = "shortcut"

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        if names != self.BRANCH:
            return super().chain(names, x)
        x = self.conv_dw(x)
        if self.use_conv_mlp:
            x = self.mlp(self.norm(x))
        else:
            x = self.mlp(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return x if self.gamma is None else x.mul(self.gamma.reshape(1, -1, 1, 1))


register_block(convnext.ConvNeXtBlock, SitedConvNeXtBlock)
