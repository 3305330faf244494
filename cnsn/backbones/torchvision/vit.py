"""torchvision's transformer blocks: ViT with tokens (B, N, C), Swin with maps (B, H, W, C).

Attention comes first, then a residual block with the sites around its linear layers; no activation
follows the sum, thus no site `out`. ViT's class token is no part of the map.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models import swin_transformer, vision_transformer

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedEncoderBlock", "SitedSwinTransformerBlock", "SitedSwinTransformerBlockV2"]


class SitedEncoderBlock(SitedResidual, vision_transformer.EncoderBlock):
    """ViT's; normalisation comes first."""

    SITES = INNER_SITES
    BRANCH = ("ln_2", "mlp")
    OUT = "mlp"
    SHORTCUT_FIRST = True
    OTHERS = ("ln_1", "self_attention", "dropout")
    channel_dim = -1
    prefix_tokens = 1

    def forward(self, input: Tensor) -> Tensor:
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        return super().forward(self.dropout(x) + input)


class _Windows(SitedResidual):
    SITES = INNER_SITES
    OUT = "mlp"
    DROP = "stochastic_depth"
    SHORTCUT_FIRST = True
    OTHERS = ("norm1", "attn")
    channel_dim = -1


class SitedSwinTransformerBlock(_Windows, swin_transformer.SwinTransformerBlock):
    """Swin's; normalisation comes first."""

    BRANCH = ("norm2", "mlp")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.stochastic_depth(self.attn(self.norm1(x))))


class SitedSwinTransformerBlockV2(_Windows, swin_transformer.SwinTransformerBlockV2):
    """SwinV2's; normalisation comes last in each branch."""

    BRANCH = ("mlp", "norm2")

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.stochastic_depth(self.norm1(self.attn(x))))


register_block(vision_transformer.EncoderBlock, SitedEncoderBlock)
register_block(swin_transformer.SwinTransformerBlock, SitedSwinTransformerBlock)
register_block(swin_transformer.SwinTransformerBlockV2, SitedSwinTransformerBlockV2)
