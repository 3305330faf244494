"""What a forward drew, for its recomputation by activation checkpointing.

A checkpoint keeps the inputs of a part of a network, and runs it a second time while backward goes
on: after :func:`cnsn.crossnorm_active` has ended, within that of another forward, and with
generators that have moved on. So every call of a layer in such a part leaves how the layer was set
with what keeps the part alive for backward, and the n-th call of a recomputation is set like the
n-th of its forward. It is freed with the graph.

Which parts a call belongs to is seen on the stack. There is one for each

    checkpoint(..., use_reentrant=False)            forward: its generator; again: its unpack_hook
    autograd function that runs the part in its     forward: its ctx; again: the same ctx
    forward, and again in its backward

The second are checkpoint(..., use_reentrant=True), those of other libraries, and those of compiled
graphs, whose backward may call a layer's operator again, in an order of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, GeneratorType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils import checkpoint

__all__ = ["as_in_forward"]


class Layer(Protocol):
    """What is set for a forward; see :class:`cnsn.layers.base.Restyling`."""

    active: bool
    generator: torch.Generator | None
    partner: Tensor | None
    rows: slice | None


class _Settings(NamedTuple):
    """How a layer was set, with the state of its generator, or else of the global one."""

    active: bool
    own: bool
    state: Tensor | None
    partner: Tensor | None
    rows: slice | None

    @classmethod
    def of(cls, layer: Layer) -> _Settings:
        source = layer.generator
        state = (source or torch.default_generator).get_state() if layer.active else None
        return cls(layer.active, source is not None, state, layer.partner, layer.rows)

    def put(self, layer: Layer) -> None:
        layer.active, layer.partner, layer.rows = self.active, self.partner, self.rows
        layer.generator = self._generator()

    def _generator(self) -> torch.Generator | None:
        # A checkpoint puts the global generator back: then what follows goes on from this draw.
        if self.state is None or (not self.own and torch.equal(torch.get_rng_state(), self.state)):
            return None
        generator = torch.Generator(device="cpu")
        generator.set_state(self.state)
        return generator


class _Calls:
    """The calls of layers in a part's forward, and how many a recomputation has repeated."""

    def __init__(self) -> None:
        self.settings: dict[Layer, list[_Settings]] = {}
        self.run: Any = None
        self.repeated: dict[Layer, int] = {}

    def add(self, layer: Layer, settings: _Settings) -> None:
        self.settings.setdefault(layer, []).append(settings)

    def repeat(self, layer: Layer, run: Any, ordered: bool) -> _Settings | None:
        """How the layer was set in the call that is repeated next; None if that is unknown."""
        if run != self.run:
            self.run, self.repeated = run, {}
        number = self.repeated.get(layer, 0)
        self.repeated[layer] = number + 1
        known = self.settings.get(layer, [])
        if not ordered and len(known) > 1 and any(settings.active for settings in known):
            return None
        return known[number] if number < len(known) else None


class _Part(NamedTuple):
    """A part of a network that a call is within; `run` names a recomputation, None is a forward."""

    owner: Any
    run: Any

    @property
    def calls(self) -> _Calls:
        """What has been seen of it."""
        if not hasattr(self.owner, "_cnsn_calls"):
            self.owner._cnsn_calls = _Calls()
        return self.owner._cnsn_calls

    @property
    def ordered(self) -> bool:
        """Whether it is run again in the order of its forward."""
        return type(self.owner).__name__ != "CompiledFunctionBackward"


@contextmanager
def as_in_forward(layer: Layer) -> Iterator[None]:
    """Within the context `layer` is set as in the forward that is being recomputed, if one is.

    Raises:
        RuntimeError: in a backward pass, for a recomputation whose forward is not known.
    """
    task = torch._C._current_graph_task_id()
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if task == -1 and hooks is None and torch.is_grad_enabled():
        yield
        return
    before = layer.active, layer.generator, layer.partner, layer.rows
    try:
        forwards, again = _parts(task)
        if again is not None or task != -1:
            settings = again and again.calls.repeat(layer, again.run, again.ordered)
            if settings is None:
                raise RuntimeError(
                    f"Expected {type(layer).__name__} to be called in a forward or in its "
                    "recomputation by torch.utils.checkpoint, but got a call in a backward pass "
                    "whose forward is not known: what it drew cannot be drawn again."
                )
            settings.put(layer)
        if forwards:
            settings = _Settings.of(layer)
            for part in forwards:
                part.calls.add(layer, settings)
        yield
    finally:
        layer.active, layer.generator, layer.partner, layer.rows = before


def _parts(task: int) -> tuple[list[_Part], _Part | None]:
    """The parts whose forward a call is in, and that whose recomputation these are in."""
    forwards: dict[int, _Part] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        part = _part(frame, task)
        if part is not None and part.run is not None:
            forwards.pop(id(part.owner), None)
            return list(forwards.values()), part
        if part is not None:
            forwards[id(part.owner)] = part
        frame = frame.f_back
    return list(forwards.values()), None


def _part(frame: FrameType, task: int) -> _Part | None:
    code = frame.f_code
    if code.co_filename == checkpoint.__file__:
        if code.co_name == "unpack_hook":
            return _Part(frame.f_locals["frame"], frame.f_locals["gid"])
        generator = frame.f_locals.get("gen") if "gen" in code.co_varnames else None
        if isinstance(generator, GeneratorType) and generator.gi_frame is not None:
            owner = generator.gi_frame.f_locals.get("new_frame")
            return None if owner is None else _Part(owner, None)
    if code.co_varnames[:1] == ("ctx",):
        owner = frame.f_locals.get("ctx")
        if isinstance(owner, BackwardCFunction):
            return _Part(owner, task if code.co_name in ("backward", "vjp") else None)
    return None
