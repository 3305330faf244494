"""CrossNorm on what a network is called with, whatever takes it first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cnsn.insertion.hosts import host, is_chain
from cnsn.kinds import RESTYLINGS
from cnsn.layers import Restyling
from cnsn.spec import CNSNSpec

__all__ = ["plan_image"]


def plan_image(net: nn.Module, spec: CNSNSpec) -> Callable[[], None]:
    """What lets CrossNorm act on the image, to be called when nothing else is refused.

    Raises:
        ValueError: `net` has no Conv2d, or no first argument.
    """
    if not any(isinstance(module, nn.Conv2d) for module in net.modules()):
        raise ValueError(
            f"Expected `net` to take an image, which its Conv2d would show, but "
            f"{type(net).__name__} has none."
        )
    # A member of a chain would be called by it.
    while is_chain(net) and len(net):  # type: ignore[arg-type]
        net = net[0]  # type: ignore[index]
    parameters = inspect.signature(net.forward).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    crossnorm = RESTYLINGS[spec.restyle].build(spec).train(net.training)

    def equip() -> None:
        handle = net.register_forward_pre_hook(restyle_input, with_kwargs=True)
        host(net, "image_crossnorm", crossnorm, handle)
        net.image_keyword = keywords[0] if keywords else ""  # type: ignore[assignment]

    return equip


def restyle_input(
    net: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Gets the module that it hooks from the caller, so that copies have their own CrossNorm."""
    crossnorm: Restyling = net.image_crossnorm  # type: ignore[assignment]
    name: str = net.image_keyword  # type: ignore[assignment]
    if inputs:
        return (crossnorm(inputs[0]), *inputs[1:]), keywords
    if name in keywords:
        return inputs, keywords | {name: crossnorm(keywords[name])}
    raise ValueError(
        f"Expected the image as the network's first argument{name and f', `{name}`'}, for "
        f"CrossNorm to act on it, but got {sorted(keywords) or 'no argument'}."
    )


def exchange_input(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The hook of networks that earlier versions pickled."""
    if not inputs:
        raise ValueError(
            "Expected the image as the network's first argument, without a keyword, for CrossNorm "
            "to act on it, but got keywords alone."
        )
    crossnorm: Restyling = net.image_crossnorm  # type: ignore[assignment]
    return crossnorm(inputs[0]), *inputs[1:]
