"""timm's Swin blocks, of both versions, with channels-last maps (B, H, W, C).

Attention comes first, then a residual block with the sites around its linear layers; no activation
follows the sum, thus no site `out`.
"""

from __future__ import annotations

from timm.models import swin_transformer, swin_transformer_v2
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedSwinTransformerBlock", "SitedSwinTransformerV2Block"]


class _Windows(SitedResidual):
    SITES = INNER_SITES
    OUT = "mlp"
    DROP = "drop_path2"
    SHORTCUT_FIRST = True
    OTHERS = ("norm1", "attn", "drop_path1")
    channel_dim = -1

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        if names != self.BRANCH:
            return super().chain(names, x)
        return super().chain(names, x.flatten(1, 2)).view_as(x)


class SitedSwinTransformerBlock(_Windows, swin_transformer.SwinTransformerBlock):
    """Normalisation comes first."""

    BRANCH = ("norm2", "mlp")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.drop_path1(self._attn(self.norm1(x))))


class SitedSwinTransformerV2Block(_Windows, swin_transformer_v2.SwinTransformerV2Block):
    """Normalisation comes last in each branch."""

    BRANCH = ("mlp", "norm2")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.drop_path1(self.norm1(self._attn(x))))


register_block(swin_transformer.SwinTransformerBlock, SitedSwinTransformerBlock)
register_block(swin_transformer_v2.SwinTransformerV2Block, SitedSwinTransformerV2Block)
