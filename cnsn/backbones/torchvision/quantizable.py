"""torchvision's quantizable blocks: ResNet, ResNeXt, MobileNet V2 and V3.

The sum goes through the block's FloatFunctional, so that preparation and conversion find it. Where
a layer acts between the sum and its activation, the two are taken apart. SelfNorm stays in floating
point: a converted network has none. Fuse first: ``fuse_model`` looks for the plain blocks.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchvision.models.quantization import mobilenetv2, mobilenetv3, resnet

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedResidual
from cnsn.backbones.torchvision.mobilenet import SitedInvertedResidualV2, SitedInvertedResidualV3
from cnsn.backbones.torchvision.resnet import SitedBasicBlock, SitedBottleneck

__all__ = [
    "SitedQuantizableBasicBlock",
    "SitedQuantizableBottleneck",
    "SitedQuantizableInvertedResidualV2",
    "SitedQuantizableInvertedResidualV3",
]


class _Quantizable(SitedResidual):
    """Comes before the float block's class: adds by the child `ADD`."""

    ADD: ClassVar[str] = "skip_add"

    @classmethod
    def parts(cls) -> frozenset[str]:
        return super().parts() | {cls.ADD}

    def merge(self, branch: Tensor, identity: Tensor | None) -> Tensor:
        if identity is None:
            return super().merge(branch, None)
        add = getattr(self, self.ADD)
        branch, identity = self.at("residual", branch), self.at("identity", identity)
        if self.LAST is None:
            return self.at("post", add.add(identity, branch))
        gated = self.cnsn_site == "post" and self.cnsn.selfnorm is not None
        if not (self.training or gated):
            return self.at("out", add.add_relu(branch, identity))
        total = torch.relu(self.at("post", torch.add(branch, identity)))
        return self.at("out", add.activation_post_process(total))


class SitedQuantizableBasicBlock(_Quantizable, SitedBasicBlock, resnet.QuantizableBasicBlock):
    """Two convolutions."""

    ADD = "add_relu"


class SitedQuantizableBottleneck(_Quantizable, SitedBottleneck, resnet.QuantizableBottleneck):
    """Three convolutions."""

    ADD = "skip_add_relu"
    BRANCH = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "conv3", "bn3")


class SitedQuantizableInvertedResidualV2(
    _Quantizable, SitedInvertedResidualV2, mobilenetv2.QuantizableInvertedResidual
):
    """MobileNet V2's."""


class SitedQuantizableInvertedResidualV3(
    _Quantizable, SitedInvertedResidualV3, mobilenetv3.QuantizableInvertedResidual
):
    """MobileNet V3's, with squeeze and excitation in some."""


register_block(resnet.QuantizableBasicBlock, SitedQuantizableBasicBlock)
register_block(resnet.QuantizableBottleneck, SitedQuantizableBottleneck)
register_block(mobilenetv2.QuantizableInvertedResidual, SitedQuantizableInvertedResidualV2)
register_block(mobilenetv3.QuantizableInvertedResidual, SitedQuantizableInvertedResidualV3)
