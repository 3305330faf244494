"""ResNet-50 for ImageNet: torchvision's, and with instance normalisation (IBN-Net).

IBN-a normalises half of the channels after a block's first convolution by the instance, IBN-b the
whole sum at the end of a stage (Pan et al. 2018, arXiv 1807.09441). Parameter names as in the
official CNSN code, so that its checkpoints load strictly. Sites are those of every residual block;
that code lets what `pre` makes of IBN's input enter the projection as well, which no recipe uses.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from cnsn.backbones.torchvision.resnet import SitedBottleneck
from cnsn.nets.initialisation import draw_convolutions

__all__ = ["IBN", "IBNResNet50", "InstanceNormBottleneck", "ResNet50", "resnet50", "resnet50_ibn"]

Variant = Literal["a", "b"]
BLOCKS = [3, 4, 6, 3]


class ResNet50(resnet.ResNet):
    """torchvision's ResNet-50. Input (B, 3, H, W), 224x224 in the recipes; output (B, num_classes).

    Its blocks get their sites by :func:`cnsn.insert`, as every torchvision network's do.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__(resnet.Bottleneck, BLOCKS, num_classes=num_classes)


class _InstanceNorm(nn.InstanceNorm2d):
    """Says in a sentence that a map of one pixel has no spread to divide by."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] < 2:
            raise ValueError(
                "Expected maps of at least 2 pixels for instance normalisation, but got one of "
                f"shape {tuple(x.shape)}: give larger images, or a network without it."
            )
        return super().forward(x)


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.IN = _InstanceNorm(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.IN(x[:, : self.split]), self.BN(x[:, self.split :])), 1)


class InstanceNormBottleneck(SitedBottleneck):
    """The last block of a stage of IBN-b: instance normalisation where other blocks have `post`."""

    SITES: ClassVar[tuple[str, ...]] = ("pre", "residual", "identity", "out")

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // resnet.Bottleneck.expansion)
        self.IN = _InstanceNorm(channels, affine=True)

    def at(self, site: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.IN(x) if site == "post" else super().at(site, x, mask)


class IBNResNet50(ResNet50):
    """ResNet-50-IBN-`variant`. Input (B, 3, H, W); output (B, num_classes)."""

    def __init__(self, *, variant: Variant = "b", num_classes: int = 1000) -> None:
        super().__init__(num_classes=num_classes)
        if variant not in get_args(Variant):
            raise ValueError(
                f"Expected `variant` to be one of {get_args(Variant)}, but got {variant!r}."
            )
        if variant == "a":
            for block in (*self.layer1, *self.layer2, *self.layer3):
                block.bn1 = IBN(block.bn1.num_features)
            return
        self.bn1: nn.Module = _InstanceNorm(self.conv1.out_channels, affine=True)
        for layer in (self.layer1, self.layer2):
            layer[-1] = InstanceNormBottleneck(layer[-1].conv3.out_channels)
            draw_convolutions(layer[-1])


def resnet50(*, num_classes: int = 1000) -> ResNet50:
    """torchvision's ResNet-50 with freshly drawn weights."""
    return ResNet50(num_classes=num_classes)


def resnet50_ibn(*, variant: Variant = "b", num_classes: int = 1000) -> IBNResNet50:
    """ResNet-50-IBN with freshly drawn weights.

    Args:
        variant: "a" or "b"; the paper's AugMix row uses b.
        num_classes: outputs.

    Raises:
        ValueError: for another variant.
    """
    return IBNResNet50(variant=variant, num_classes=num_classes)
