"""SelfNorm whose number of channels the first forward tells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from cnsn.layers import CNSN, Gate

__all__ = ["LazyCNSN", "unknown_gate"]


class UnknownParameter(UninitializedParameter):
    """A parameter without a shape, in a module that is not lazy itself."""

    def detach(self) -> UnknownParameter:
        """For the state dict of such a module."""
        return self


class UnknownBuffer(UninitializedBuffer):
    """A buffer without a shape, in a module that is not lazy itself."""

    def detach(self) -> UnknownBuffer:
        """For the state dict of such a module."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> UnknownBuffer:
        if id(self) not in memo:
            memo[id(self)] = _unknown(type(self), self, False)
        return memo[id(self)]


def _unknown(kind: Any, like: Tensor, requires_grad: bool) -> Any:
    """A tensor without a shape, of the device and dtype of `like`."""
    return kind(requires_grad, like.data.device, like.data.dtype)


def unknown_gate(build: Callable[[int], Gate]) -> Gate:
    """A gate whose tensors have no shape where it depends on the number of channels."""
    # What is drawn here is never used.
    with torch.random.fork_rng(devices=[]):
        gate, other = build(64), build(128)
    for module, twin in zip(gate.modules(), other.modules(), strict=True):
        for name, tensor in module._parameters.items():
            if tensor is not None and tensor.shape != twin._parameters[name].shape:  # type: ignore[union-attr]
                module._parameters[name] = _unknown(UnknownParameter, tensor, tensor.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.shape != twin._buffers[name].shape:  # type: ignore[union-attr]
                module._buffers[name] = _unknown(UnknownBuffer, buffer, False)
    return gate


class LazyCNSN(LazyModuleMixin, CNSN):
    """CNSN until its first forward; a subclass says what it becomes then.

    Args:
        build: makes the gate for a number of channels, with the values that it starts from; it is
            pickled with the layer.
        channel_dim: the dimension of channels.
    """

    def __init__(self, *, build: partial[Gate], channel_dim: int, **options: Any) -> None:
        super().__init__(selfnorm=unknown_gate(build), **options)
        self.build = build
        self.channel_dim = channel_dim

    def initialize_parameters(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Give the gate the channels of `x`; tensors that were loaded stay."""
        gate = self.selfnorm
        assert gate is not None
        made = self.build(x.shape[self.channel_dim])
        with torch.no_grad():
            for own, fresh in zip(gate.modules(), made.modules(), strict=True):
                for tensors, new in (
                    (own._parameters, fresh._parameters),
                    (own._buffers, fresh._buffers),
                ):
                    for name, tensor in tensors.items():
                        _fill(tensor, new[name], name)
                # Also what is no tensor, such as a convolution's groups.
                vars(own).update({k: v for k, v in vars(fresh).items() if k not in _PLAIN})
        del self.build, self.channel_dim

    def _lazy_load_hook(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        named = chain(self.named_parameters(), self.named_buffers())
        for name, tensor in named:
            given = state_dict.get(prefix + name)
            if is_lazy(tensor) and given is not None and not is_lazy(given):
                with torch.no_grad():
                    tensor.materialize(given.shape)


_PLAIN = frozenset(vars(nn.Module()))


def _fill(tensor: Tensor | None, fresh: Tensor | None, name: str) -> None:
    if tensor is None or fresh is None:
        return
    if is_lazy(tensor):
        tensor.materialize(fresh.shape)
        tensor.copy_(fresh)
    elif tensor.shape != fresh.shape:
        raise ValueError(
            f"Expected the maps to have as many channels as the loaded `{name}`, of shape "
            f"{tuple(tensor.shape)}, but they ask for {tuple(fresh.shape)}."
        )
