"""CNSN: CrossNorm and SelfNorm at one place of a network, as the paper combines them."""

from __future__ import annotations

from torch import Tensor, nn

from cnsn.layers.base import Gate, Restyling

__all__ = ["CNSN"]


class CNSN(nn.Module):
    """CrossNorm, then SelfNorm; either may be missing, or another layer in its place.

    Shape: that of the two layers, returned as it came, as is `mask`.
    """

    def __init__(self, *, crossnorm: Restyling | None = None, selfnorm: Gate | None = None) -> None:
        super().__init__()
        self.crossnorm = crossnorm
        self.selfnorm = selfnorm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.crossnorm is not None:
            x = self.crossnorm(x, mask)
        if self.selfnorm is not None:
            x = self.selfnorm(x, mask)
        return x
