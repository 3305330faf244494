"""Layers as a spec asks for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from cnsn.kinds import GATES, RESTYLINGS
from cnsn.layers import Gate, Restyling
from cnsn.spec import CNSNSpec

__all__ = ["gates", "like_of", "new_crossnorm"]

Like = dict[str, Any]
# How far all SelfNorms together move the outputs of a chain that merely scales its maps, when the
# start is neutral. Networks with biases and averages in their batch norms move by up to twice that.
MOVED = 0.02


def gates(spec: CNSNSpec, count: int) -> Callable[..., Gate]:
    """What makes the `count` gates of one insertion."""
    moved = 1 - (1 - MOVED) ** (1 / max(count, 1)) if spec.start == "neutral" else None
    return partial(_new_gate, spec=spec, moved=moved)


def _new_gate(
    channels: int, *, spec: CNSNSpec, moved: float | None, like: Like, **layout: int
) -> Gate:
    gate = GATES[spec.gate].build(spec, channels, **layout)
    if moved is not None:
        gate.open(moved)
    return gate.to(**like)


def like_of(module: nn.Module) -> Like:
    """Device and dtype of the parameters of `module`."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return {"device": parameter.device, "dtype": parameter.dtype}
    return {}


def new_crossnorm(spec: CNSNSpec, channels: int | None = None, **layout: int) -> Restyling:
    layer = RESTYLINGS[spec.restyle].build(spec, **layout)
    layer.check_channels(channels or 0)
    return layer
