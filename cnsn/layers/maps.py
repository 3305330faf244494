"""Which tensors are maps: where their channels are, and which positions are none.

    channel_dim  1:   (B, C, L)   (B, C, H, W)   (B, C, T, H, W)
    channel_dim -1:   (B, N, C)   (B, H, W, C)   (B, T, H, W, C)

The layers compute on the first row. The second is seen as the first without a copy: in memory it is
the first in channels_last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, fx, nn

__all__ = ["MapLayer"]

SHAPES = {
    1: "(B, C, L), (B, C, H, W) or (B, C, T, H, W)",
    -1: "(B, N, C), (B, H, W, C) or (B, T, H, W, C)",
}


class MapLayer(nn.Module):
    """A module that takes feature maps and returns them in the shape that they came in.

    Args:
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first of N tokens (class and register tokens) pass unchanged
            and count in no statistics.
    """

    # Layers pickled before there were others have these.
    channel_dim: int = 1
    prefix_tokens: int = 0

    def __init__(self, *, channel_dim: int = 1, prefix_tokens: int = 0) -> None:
        super().__init__()
        if channel_dim not in SHAPES:
            raise ValueError(f"Expected `channel_dim` to be 1 or -1, but got {channel_dim}.")
        if prefix_tokens < 0 or (prefix_tokens and channel_dim == 1):
            raise ValueError(
                "Expected `prefix_tokens` to be 0 or, where `channel_dim` is -1, a number of "
                f"tokens, but got {prefix_tokens} with `channel_dim` {channel_dim}."
            )
        self.channel_dim = channel_dim
        self.prefix_tokens = prefix_tokens

    def check_maps(self, x: Tensor) -> None:
        """Raise ValueError for what is no such map."""
        if not isinstance(x, Tensor):
            raise ValueError(
                f"Expected `x` to be a tensor of feature maps, but got a {type(x).__name__}."
            )
        if x.ndim not in (3, 4, 5):
            raise ValueError(
                f"Expected `x` to be maps {SHAPES[self.channel_dim]}, but got {tuple(x.shape)}."
            )
        if not x.is_floating_point():
            raise ValueError(f"Expected `x` to be of a floating point dtype, but got {x.dtype}.")
        if self.prefix_tokens and (x.ndim != 3 or x.shape[1] <= self.prefix_tokens):
            raise ValueError(
                f"Expected `x` to be tokens (B, N, C) with more than the {self.prefix_tokens} of "
                f"`prefix_tokens`, but got {tuple(x.shape)}."
            )

    def positions(self, x: Tensor) -> int:
        """How many positions of each channel count in its statistics."""
        sizes = x.shape[2:] if self.channel_dim == 1 else x.shape[1:-1]
        return math.prod(sizes) - self.prefix_tokens

    def on_maps(
        self,
        function: Callable[[Tensor, Tensor | None], Tensor],
        x: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """`x`, with what `function` makes of its maps (B, C, ...) in their place."""
        if self.channel_dim == 1:
            return function(x, mask)
        prefix = self.prefix_tokens
        if prefix:
            mask = None if mask is None else mask[:, prefix:]
            tokens = function(x[:, prefix:].movedim(-1, 1), mask).movedim(1, -1)
            return torch.cat([x[:, :prefix], tokens], 1)
        return function(x.movedim(-1, 1), mask).movedim(1, -1)

    def call_node(self, x: fx.Proxy, mask: fx.Proxy | None) -> fx.Proxy:
        """A call of the layer in a graph that torch.fx traces: its forward looks at sizes."""
        path = x.tracer.path_of_module(self)  # type: ignore[attr-defined]
        return x.tracer.create_proxy("call_module", path, (x, mask), {})

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"Expected a network without {type(self).__name__} for torch.jit.script: use "
            "torch.jit.trace, torch.export or torch.compile, which take it."
        )

    def layout_repr(self) -> str:
        """What differs from the usual, for `extra_repr`."""
        text = "" if self.channel_dim == 1 else f", channel_dim={self.channel_dim}"
        return text + (f", prefix_tokens={self.prefix_tokens}" if self.prefix_tokens else "")
