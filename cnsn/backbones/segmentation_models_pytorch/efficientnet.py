"""The block of segmentation_models_pytorch's EfficientNet encoders.

There is no activation behind the sum, thus no site `out`; a block that changes the resolution or
the channels has no shortcut, and no site `identity`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import _efficientnet as efficientnet
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import INNER_SITES, SitedResidual

__all__ = ["SitedMBConvBlock"]


class SitedMBConvBlock(SitedResidual, efficientnet.MBConvBlock):
    """The blocks lie side by side: one that lowers the resolution begins a stage."""

    SITES = INNER_SITES
    BRANCH = (
        *("_expand_conv", "_bn0", "_swish", "_depthwise_conv", "_bn1", "_swish"),
        *("_se_reduce", "_se_expand", "_project_conv", "_bn2"),
    )
    OUT = "_project_conv"
    SKIP = "_has_drop_connect"

    def starts_stage(self) -> bool:
        return max(self._depthwise_conv.stride) > 1

    def forward(self, inputs: Tensor, drop_connect_rate: float | None = None) -> Tensor:
        x = self.at("pre", inputs)
        if self._has_expansion:
            x = self._swish(self._bn0(self._expand_conv(x)))
        x = self._swish(self._bn1(self._depthwise_conv(x)))
        if self._has_se:
            squeezed = self._swish(self._se_reduce(F.adaptive_avg_pool2d(x, 1)))
            x = torch.sigmoid(self._se_expand(squeezed)) * x
        x = self.at("residual", self._bn2(self._project_conv(x)))
        if self._has_drop_connect:
            if drop_connect_rate:
                x = efficientnet.drop_connect(x, p=drop_connect_rate, training=self.training)
            x = x + self.at("identity", inputs)
        return self.at("post", x)


register_block(efficientnet.MBConvBlock, SitedMBConvBlock)
