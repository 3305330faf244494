"""timm's blocks of vision transformers (ViT, DeiT, DINO, relative ViT, ...), tokens (B, N, C).

Attention comes first, then a residual block with the sites around its linear layers; no activation
follows the sum, thus no site `out`. Class and register tokens are no part of the map.
"""

from __future__ import annotations

from typing import Any

from timm.models import vision_transformer as vit
from timm.models import vision_transformer_relpos as relative
from torch import Tensor, nn

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = [
    "SitedRelPosBlock",
    "SitedResPostBlock",
    "SitedResPostRelPosBlock",
    "SitedViTBlock",
]


class _Tokens(SitedResidual):
    SITES = INNER_SITES
    OUT = "mlp"
    DROP = "drop_path2"
    SHORTCUT_FIRST = True
    channel_dim = -1

    def settle(self, net: nn.Module) -> None:
        """The tokens before the map are those that the transformer around the block puts there."""
        for module in net.modules():
            tokens = getattr(module, "num_prefix_tokens", None)
            if isinstance(tokens, int) and self.mlp in list(module.modules()):
                self.prefix_tokens = tokens


class _First(_Tokens):
    BRANCH = ("norm2", "mlp", "ls2")
    OTHERS = ("norm1", "attn", "ls1", "drop_path1")

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        attention = self.ls1(self.attn(self.norm1(x), *args, **options))
        return super().forward(x + self.drop_path1(attention))


class _Last(_Tokens):
    BRANCH = ("mlp", "norm2")
    OTHERS = ("attn", "norm1", "drop_path1")

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        attention = self.norm1(self.attn(x, *args, **options))
        return super().forward(x + self.drop_path1(attention))


class SitedViTBlock(_First, vit.Block):
    """Normalisation comes first in each branch."""


class SitedResPostBlock(_Last, vit.ResPostBlock):
    """Normalisation comes last in each branch."""


class SitedRelPosBlock(_First, relative.RelPosBlock):
    """With relative positions; normalisation comes first in each branch."""


class SitedResPostRelPosBlock(_Last, relative.ResPostRelPosBlock):
    """With relative positions; normalisation comes last in each branch."""


register_block(vit.Block, SitedViTBlock)
register_block(vit.ResPostBlock, SitedResPostBlock)
register_block(relative.RelPosBlock, SitedRelPosBlock)
register_block(relative.ResPostRelPosBlock, SitedResPostRelPosBlock)
