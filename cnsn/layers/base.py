"""The two bases of the layers: one acts only when it is switched on, the other always."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Gate", "Restyling", "check_batch", "compiling"]


class Restyling(nn.Module):
    """Gives feature maps other statistics while training; the identity unless `active`.

    A subclass says how, in :meth:`restyle`, and draws whatever is random on the CPU from
    `generator`.

    Shape: (B, C, H, W) or (B, C, L), returned as it came. A map of a single position has no style
    and is returned unchanged.

    Attributes:
        active: set for the length of a forward by :func:`cnsn.crossnorm_active`.
        generator: CPU generator of all draws; None means torch's global one.
        partner: explicit permutation (B,) used instead of a random one, for styles that must come
            from a chosen sample; None means random.
        rows: the samples of the batch that take part, the others pass unchanged; None means all.
            `partner` then counts within them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.generator: torch.Generator | None = None
        self.partner: Tensor | None = None
        self.rows: slice | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy made while the site is active is inactive.
        return vars(self) | {"active": False, "generator": None, "partner": None, "rows": None}

    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` with other statistics; `mask`, bool (B, L), is where sequences have what counts."""
        raise NotImplementedError

    def traced(self, x: Tensor) -> Tensor:
        """What a compiled graph has in the layer's place; here, a way out of it."""
        return self._eager(x)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training or math.prod(x.shape[2:]) < 2:
            return x
        if mask is None and compiling():
            return self.traced(x)
        return self._switched(x, mask)

    def _switched(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not self.active:
            return x
        check_batch(x)
        if self.rows is None:
            return self.restyle(x, mask)
        start, stop, _ = self.rows.indices(len(x))
        own = None if mask is None else mask[start:stop]
        return torch.cat([x[:start], self.restyle(x[start:stop], own), x[stop:]])

    @torch.compiler.disable
    def _eager(self, x: Tensor) -> Tensor:
        return self._switched(x, None)

    def draw_partners(self, n: int) -> Tensor:
        """`partner`, or a random permutation of `n` maps."""
        if self.partner is None:
            return torch.randperm(n, generator=self.generator, device="cpu")
        if self.partner.shape != (n,):
            raise ValueError(
                f"Expected `partner` to hold one index for each of {n} maps, "
                f"but got shape {tuple(self.partner.shape)}."
            )
        return self.partner


class Gate(nn.Module):
    """Rescales channels by what it has learnt of their statistics, at training and test time.

    Args:
        channels: C of the input.

    Shape: (B, C, H, W) or (B, C, L), returned as it came.
    """

    # Preparing the network around it for quantisation leaves a gate in floating point.
    qconfig = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"Expected `channels` to be at least 1, but got {channels}.")
        self.channels = channels

    def open(self, moved: float) -> None:
        """Let the gates begin so that maps move by about the share `moved` of them at most.

        Raises:
            ValueError: the layer has no such start.
        """
        raise ValueError(
            f"Expected `start` to be 'released', since {type(self).__name__} has no other start."
        )

    def check(self, x: Tensor) -> None:
        """Raise ValueError for maps of another number of channels, and for an empty batch."""
        if x.ndim not in (3, 4) or x.shape[1] != self.channels:
            raise ValueError(
                f"Expected `x` to be of shape (B, {self.channels}, ...) with 3 or 4 dimensions, "
                f"but got {tuple(x.shape)}."
            )
        check_batch(x)


def compiling() -> bool:
    """Whether torch.compile traces; exported graphs have the plain arithmetic."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def check_batch(x: Tensor) -> None:
    """Raise ValueError for a batch of no samples."""
    if x.shape[0] == 0:
        raise ValueError(f"Expected `x` to hold at least 1 sample, but got {tuple(x.shape)}.")
