"""Whether the fast kernels take a map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor, nn

__all__ = ["disabled", "suit"]

_enabled = os.environ.get("CNSN_KERNELS", "1") != "0"


@contextmanager
def disabled() -> Iterator[None]:
    """Within the context the layers use the reference, in every thread."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def _transformed() -> bool:
    """Whether a transform that autograd functions do not take part in is at work."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def suit(x: Tensor) -> bool:
    """Whether the kernels take `x`, of shape (B, C, ...), as things are now."""
    # First, as tracers must not look at the rest.
    if _transformed() or not _enabled:
        return False
    if type(x) not in (Tensor, nn.Parameter) or x.layout != torch.strided or x.numel() == 0:
        return False
    half = x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    if x.device.type == "cpu":
        return half or x.dtype == torch.float64
    return x.device.type == "cuda" and torch.version.cuda is not None and half and _triton()
