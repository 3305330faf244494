"""torchvision's DenseNet layer, with the sites `pre` and `residual`."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models import densenet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedDense

__all__ = ["SitedDenseLayer"]


class SitedDenseLayer(SitedDense, densenet._DenseLayer):
    """Normalisation, activation and convolution, twice."""

    @classmethod
    def parts(cls) -> frozenset[str]:
        return frozenset({"norm1", "relu1", "conv1", "norm2", "relu2", "conv2"})

    def bn_function(self, inputs: list[Tensor]) -> Tensor:
        features = self.at("pre", torch.cat(inputs, 1))
        return self.conv1(self.relu1(self.norm1(features)))

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        return self.at("residual", densenet._DenseLayer.forward(self, input))


register_block(densenet._DenseLayer, SitedDenseLayer)
