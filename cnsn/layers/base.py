"""The two bases of the layers: one acts only when it is switched on, the other always."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from cnsn.layers.maps import MapLayer
from cnsn.recomputation import as_in_forward, may_be_recomputed, refuse_recomputed

__all__ = ["Gate", "Restyling", "check_batch", "compiling"]


class Restyling(MapLayer):
    """Gives feature maps other statistics while training; the identity unless `active`.

    A subclass says how, in :meth:`restyle`, and draws whatever is random on the CPU from
    `generator`.

    Args:
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape: (B, C, L), (B, C, H, W) or (B, C, T, H, W); with `channel_dim` -1 (B, N, C), (B, H, W, C)
    or (B, T, H, W, C); returned as it came. A map of a single position has no style and is returned
    unchanged.

    Attributes:
        active: set for the length of a forward by :func:`cnsn.crossnorm_active`.
        generator: CPU generator of all draws; None means torch's global one.
        partner: explicit permutation (B,) used instead of a random one, for styles that must come
            from a chosen sample; None means random.
        rows: the samples of the batch that take part, the others pass unchanged; None means all.
            `partner` then counts within them.
        PAIRED: whether styles come from partners; else `partner` is refused.
        MAX_CHANNELS: how many channels it takes at most; None is any number.

    Under activation checkpointing, a recomputation uses what its forward drew, wherever backward
    stands.

    Raises:
        ValueError: while training, active or not, for what is no such map; for a `partner` or for
            more channels than it takes.
        RuntimeError: in a backward pass, for a recomputation of a forward that was not seen as one
            (see :mod:`cnsn.recomputation`).
    """

    # As of a gate: in evaluation it is nothing, and needs no observer.
    qconfig = None

    PAIRED: ClassVar[bool] = True
    MAX_CHANNELS: ClassVar[int | None] = None

    def __init__(self, *, channel_dim: int = 1, prefix_tokens: int = 0) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        self.active = False
        self.generator: torch.Generator | None = None
        self.partner: Tensor | None = None
        self.rows: slice | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy made while the site is active is inactive.
        return vars(self) | {"active": False, "generator": None, "partner": None, "rows": None}

    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Maps (B, C, ...) with other statistics.

        `mask`, bool (B, L), is where sequences have what counts.
        """
        raise NotImplementedError

    def traced(self, x: Tensor) -> Tensor:
        """What a compiled graph has in the layer's place; here, a way out of it."""
        return self._eager(x)

    def check_channels(self, channels: int) -> None:
        """Raise ValueError for maps of more channels than the layer takes."""
        if self.MAX_CHANNELS is not None and channels > self.MAX_CHANNELS:
            raise ValueError(
                f"Expected maps of at most {self.MAX_CHANNELS} channels for "
                f"{type(self).__name__}, but got {channels}: choose other `stages` or another site."
            )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if isinstance(x, fx.Proxy):
            return self.call_node(x, mask)
        if not self.training:
            return x
        self.check_maps(x)
        if self.positions(x) < 2:
            return x
        if torch.compiler.is_compiling():
            if mask is None and compiling():
                return self.traced(x)
            if self.active:
                refuse_recomputed(self)
        elif may_be_recomputed():
            with as_in_forward(self):
                return self._switched(x, mask)
        return self._switched(x, mask)

    def _switched(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not self.active:
            return x
        check_batch(x)
        self.check_channels(x.shape[self.channel_dim])
        if self.partner is not None and not self.PAIRED:
            raise ValueError(
                f"Expected `partner` to be None for {type(self).__name__}, which takes no style "
                "from other samples."
            )
        if self.rows is None:
            return self.on_maps(self.restyle, x, mask)
        start, stop, _ = self.rows.indices(len(x))
        stop = max(start, stop)
        before, own, after = x.split([start, stop - start, len(x) - stop])
        mask = None if mask is None else mask[start:stop]
        return torch.cat([before, self.on_maps(self.restyle, own, mask), after])

    @torch.compiler.disable
    def _eager(self, x: Tensor) -> Tensor:
        _say_eager(type(self).__name__)
        with as_in_forward(self):
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


class Gate(MapLayer):
    """Rescales channels by what it has learnt of their statistics, at training and test time.

    A subclass says how, in :meth:`rescale`.

    Args:
        channels: C of the input.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape: (B, C, L), (B, C, H, W) or (B, C, T, H, W); with `channel_dim` -1 (B, N, C), (B, H, W, C)
    or (B, T, H, W, C); returned as it came.
    """

    # Preparing the network around it for quantisation leaves a gate in floating point.
    qconfig = None

    def __init__(self, channels: int, *, channel_dim: int = 1, prefix_tokens: int = 0) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        if channels < 1:
            raise ValueError(f"Expected `channels` to be at least 1, but got {channels}.")
        self.channels = channels

    def rescale(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the layer makes of maps (B, C, ...); `mask` is where they have what counts."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if isinstance(x, fx.Proxy):
            return self.call_node(x, mask)
        self.check(x)
        return self.on_maps(self.rescale, x, mask)

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
        self.check_maps(x)
        if x.shape[self.channel_dim] != self.channels:
            shape = f"(B, {self.channels}, ...)"
            if self.channel_dim == -1:
                shape = f"(B, ..., {self.channels})"
            raise ValueError(f"Expected `x` to be of shape {shape}, but got {tuple(x.shape)}.")
        check_batch(x)


@cache
def _say_eager(name: str) -> None:
    logging.getLogger("cnsn").info("%s runs outside of compiled graphs.", name)


def compiling() -> bool:
    """Whether torch.compile traces; exported graphs have the plain arithmetic."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def check_batch(x: Tensor) -> None:
    """Raise ValueError for a batch of no samples."""
    if x.shape[0] == 0:
        raise ValueError(f"Expected `x` to hold at least 1 sample, but got {tuple(x.shape)}.")
