"""torchvision's DenseNet layer.

It has no sum: `pre` is its input, all channels so far, as the layer alone sees them, and `residual`
the new channels before they are appended.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models import densenet

from cnsn.backbones import register_block
from cnsn.sites import SitedBlock

__all__ = ["SitedDenseLayer"]


class SitedDenseLayer(SitedBlock, densenet._DenseLayer):
    """Normalisation, activation and convolution, twice."""

    SITES = ("pre", "residual")

    @classmethod
    def parts(cls) -> frozenset[str]:
        return frozenset({"norm1", "relu1", "conv1", "norm2", "relu2", "conv2"})

    def site_channels(self) -> Mapping[str, int]:
        return {"pre": self.conv1.in_channels, "residual": self.conv2.out_channels}

    def bn_function(self, inputs: list[Tensor]) -> Tensor:
        return self.conv1(self.relu1(self.norm1(self.at("pre", torch.cat(inputs, 1)))))

    def forward(self, input: Tensor) -> Tensor:
        return self.at("residual", densenet._DenseLayer.forward(self, input))


register_block(densenet._DenseLayer, SitedDenseLayer)
