"""Blocks of transformers' ConvNeXt, of both versions; they take and give (B, C, H, W).

There is no activation behind the sum, thus no site `out`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers.models.convnext import modeling_convnext as convnext
from transformers.models.convnextv2 import modeling_convnextv2 as convnextv2

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedConvNextLayer", "SitedConvNextV2Layer"]


class _ConvNext(SitedResidual):
    SITES = INNER_SITES
    BRANCH: ClassVar[tuple[str, ...]] = ("dwconv", "layernorm", "pwconv1", "act", "pwconv2")
    OUT = "dwconv"
    DROP = "drop_path"
    SHORTCUT_FIRST = True

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        if names != self.BRANCH:
            return super().chain(names, x)
        x = super().chain(self.BRANCH[1:], self.dwconv(x).permute(0, 2, 3, 1))
        scale = getattr(self, "layer_scale_parameter", None)
        return (x if scale is None else scale * x).permute(0, 3, 1, 2)


class SitedConvNextLayer(_ConvNext, convnext.ConvNextLayer):
    """Depthwise convolution and two linear layers; `residual` is behind their scale."""


class SitedConvNextV2Layer(_ConvNext, convnextv2.ConvNextV2Layer):
    """As the first version's, with a normalisation of responses in the scale's place."""

    BRANCH = ("dwconv", "layernorm", "pwconv1", "act", "grn", "pwconv2")


register_block(convnext.ConvNextLayer, SitedConvNextLayer)
register_block(convnextv2.ConvNextV2Layer, SitedConvNextV2Layer)
