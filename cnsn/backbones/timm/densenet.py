"""timm's DenseNet layer, with the sites `pre` and `residual`."""

from __future__ import annotations

import torch
from timm.models import densenet
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedDense

__all__ = ["SitedDenseLayer"]


class SitedDenseLayer(SitedDense, densenet.DenseLayer):
    """Normalisation, activation and convolution, twice."""

    @classmethod
    def parts(cls) -> frozenset[str]:
        return frozenset({"norm1", "conv1", "norm2", "conv2"})

    def bottleneck_fn(self, xs: list[Tensor]) -> Tensor:
        features = self.at("pre", torch.cat(xs, 1))
        return self.conv1(self.norm1(features))

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        return self.at("residual", densenet.DenseLayer.forward(self, x))


register_block(densenet.DenseLayer, SitedDenseLayer)
