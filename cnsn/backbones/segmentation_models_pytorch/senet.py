"""Blocks of segmentation_models_pytorch's SENet encoders with the five sites.

Most of its encoders are built from torchvision's and timm's blocks.
"""

from __future__ import annotations

from segmentation_models_pytorch.encoders import _senet as senet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = ["SitedSEBottleneck", "SitedSEResNeXtBottleneck", "SitedSEResNetBottleneck"]


class _Bottleneck(SitedResidual):
    BRANCH = ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3", "se_module")
    OUT = "conv3"
    SHORTCUT = "downsample"
    LAST = "relu"


class SitedSEBottleneck(_Bottleneck, senet.SEBottleneck):
    """SENet154's."""


class SitedSEResNetBottleneck(_Bottleneck, senet.SEResNetBottleneck):
    """SE-ResNet's."""


class SitedSEResNeXtBottleneck(_Bottleneck, senet.SEResNeXtBottleneck):
    """SE-ResNeXt's."""


register_block(senet.SEBottleneck, SitedSEBottleneck)
register_block(senet.SEResNetBottleneck, SitedSEResNetBottleneck)
register_block(senet.SEResNeXtBottleneck, SitedSEResNeXtBottleneck)
