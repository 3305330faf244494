"""Blocks of transformers' ResNet and RegNet with the five sites."""

from __future__ import annotations

from transformers.models.regnet import modeling_regnet as regnet
from transformers.models.resnet import modeling_resnet as resnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual

__all__ = [
    "SitedRegNetXLayer",
    "SitedRegNetYLayer",
    "SitedResNetBasicLayer",
    "SitedResNetBottleNeckLayer",
]


class _Layered(SitedResidual):
    BRANCH = ("layer",)
    OUT = "layer"
    SHORTCUT = "shortcut"
    LAST = "activation"


class SitedResNetBasicLayer(_Layered, resnet.ResNetBasicLayer):
    """Two convolutions."""


class SitedResNetBottleNeckLayer(_Layered, resnet.ResNetBottleNeckLayer):
    """Three convolutions."""


class SitedRegNetXLayer(_Layered, regnet.RegNetXLayer):
    """Three convolutions, the middle one grouped."""


class SitedRegNetYLayer(_Layered, regnet.RegNetYLayer):
    """As RegNetX's, with squeeze and excitation."""


register_block(resnet.ResNetBasicLayer, SitedResNetBasicLayer)
register_block(resnet.ResNetBottleNeckLayer, SitedResNetBottleNeckLayer)
register_block(regnet.RegNetXLayer, SitedRegNetXLayer)
register_block(regnet.RegNetYLayer, SitedRegNetYLayer)
