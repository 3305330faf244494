"""torchvision's ConvNeXt block; it takes and gives (B, C, H, W).

There is no activation behind the sum, thus no site `out`.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models import convnext

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedCNBlock"]


class SitedCNBlock(SitedResidual, convnext.CNBlock):
    """Depthwise convolution and two linear layers; `residual` is behind their scale."""

    SITES = INNER_SITES
    BRANCH = ("block",)
    OUT = "block"
    DROP = "stochastic_depth"

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        x = super().chain(names, x)
        return self.layer_scale * x if names == self.BRANCH else x


register_block(convnext.CNBlock, SitedCNBlock)
