"""All Convolutional Network (Springenberg et al. 2015, arXiv 1412.6806), as AugMix trains it.

96-96-96, pool and dropout, 192-192-192, pool and dropout, 192 unpadded, then two 1x1 convolutions
whose padding of 1 surrounds the map with zeros, and an average over 8x8 positions. Parameter names
as in the official CNSN code, so that its checkpoints load strictly: inserted layers are members of
``features``, behind the convolution, the normalisation or the activation (`conv`, `norm`, `act`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnsn.nets.initialisation import draw_convolutions
from cnsn.sites import SitedChain

__all__ = ["AllConv", "SigmoidGELU", "allconv"]

POOL = 8


class SigmoidGELU(nn.Module):
    """x sigmoid(1.702 x): the approximation of GELU that the released networks use."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class AllConv(nn.Module):
    """Input (B, 3, H, W), H and W from 24 to 55; output (B, num_classes).

    The average covers the first 8x8 positions; images of 32x32 arrive there as 10x10.
    """

    def __init__(self, *, width: int = 96, num_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        if width < 1 or num_classes < 1:
            raise ValueError(
                f"Expected `width` and `num_classes` to be at least 1, but got {width} and "
                f"{num_classes}."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"Expected `dropout` to be in [0, 1), but got {dropout}.")
        members: list[nn.Module] = []

        def unit(in_channels: int, out_channels: int, kernel: int, padding: int) -> None:
            members.append(nn.Conv2d(in_channels, out_channels, kernel, padding=padding))
            members.extend((nn.BatchNorm2d(out_channels), SigmoidGELU()))

        wide = 2 * width
        for channels in ((3, width, width, width), (width, wide, wide, wide)):
            for i in range(3):
                unit(channels[i], channels[i + 1], 3, 1)
            members.extend((nn.MaxPool2d(2), nn.Dropout(dropout)))
        unit(wide, wide, 3, 0)
        unit(wide, wide, 1, 1)
        unit(wide, wide, 1, 1)
        self.features = SitedChain(*members, nn.AvgPool2d(POOL))
        self.classifier = nn.Linear(wide, num_classes)
        draw_convolutions(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        # Two poolings, -2 and twice +2: the size before the average is size // 4 + 2.
        if any(not POOL <= size // 4 + 2 < 2 * POOL for size in x.shape[2:]):
            raise ValueError(
                f"Expected images of 24 to 55 pixels a side for AllConv, but got "
                f"{tuple(x.shape[2:])}."
            )
        return self.classifier(self.features(x).flatten(1))


def allconv(*, num_classes: int = 10, width: int = 96, dropout: float = 0.5) -> AllConv:
    """AllConv with freshly drawn weights.

    Args:
        num_classes: outputs.
        width: channels before the first pooling; later layers have twice as many.
        dropout: after each pooling.

    Raises:
        ValueError: for an argument out of range.
    """
    return AllConv(width=width, num_classes=num_classes, dropout=dropout)
