"""The block of transformers' ViT, with tokens (B, N, C).

Attention comes first, then a residual block with the sites around its linear layers; no activation
follows the sum, thus no site `out`. The class token is no part of the map.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.vit import modeling_vit as vit

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedViTLayer"]


class SitedViTLayer(SitedResidual, vit.ViTLayer):
    """Normalisation comes first."""

    SITES = INNER_SITES
    BRANCH = ("layernorm_after", "mlp", "dropout")
    OUT = "mlp"
    OTHERS = ("layernorm_before", "attention")
    channel_dim = -1
    prefix_tokens = 1

    def forward(  # type: ignore[override]  # Called by its library's names.
        self, hidden_states: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        attention, _ = self.attention(self.layernorm_before(hidden_states), *args, **options)
        return super().forward(self.dropout(attention) + hidden_states)


register_block(vit.ViTLayer, SitedViTLayer)
