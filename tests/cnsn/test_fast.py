"""The fast kernels against the reference in float64, and what they promise besides."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.textbook import TextbookCrossNorm, TextbookSelfNorm
from cnsn import CNSNSpec, CrossNorm, SelfNorm, crossnorm_active, insert, kernels
from cnsn.nets import wide_resnet
from tests.cnsn.test_layers import active

CROPS = ("neither", "style", "content", "both")
LAYOUTS = ("contiguous", "channels_last", "strided")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def maps(shape: tuple[int, ...], ratio: float, seed: int) -> Tensor:
    """Channels with |mean| / std about `ratio`; the first of the first sample is constant."""
    generator = torch.Generator().manual_seed(seed)
    outer = (*shape[:2], *[1] * (len(shape) - 2))
    mean = ratio * torch.randn(outer, generator=generator).double()
    scale = 0.5 + torch.rand(outer, generator=generator).double()
    x = (torch.randn(shape, generator=generator).double() + mean) * scale
    x[0, 0] = x[0, 0].flatten()[0]
    return x


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "channels_last":
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    return x.contiguous()


def results(layer: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Output and gradients of ``(weight * y).sum()``."""
    x = x.detach().requires_grad_()
    y = layer(x)
    (y * weight.to(y.dtype)).sum().backward()
    assert x.grad is not None and y.dtype == x.dtype and x.grad.dtype == x.dtype
    return {"y": y.detach(), "dx": x.grad}


def check(layer: nn.Module, exact: nn.Module, x: Tensor, tolerance: float) -> None:
    """`layer` by the kernels against `exact` by the reference in float64."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x.dtype)
    assert kernels.suit(x)
    ours = results(layer, x, weight)
    with kernels.disabled():
        theirs = results(exact, x.double(), weight.double())
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        error = (ours[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-30)
        assert error < tolerance, f"{name}: {error:.1e}"


shapes = st.one_of(
    st.tuples(st.integers(3, 5), st.integers(1, 5), st.integers(1, 9), st.integers(2, 9)),
    st.tuples(st.integers(3, 5), st.integers(1, 5), st.integers(2, 20)),
)
common: dict[str, Any] = {
    "shape": shapes,
    "layout": st.sampled_from(LAYOUTS),
    "dtype": st.sampled_from(list(TOLERANCE)),
    "ratio": st.sampled_from([0.0, 1.0, 30.0, 1e3]),
    "seed": st.integers(0, 2**20),
}


@given(two_sided=st.booleans(), training=st.booleans(), **common)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_selfnorm(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    ratio: float,
    seed: int,
    two_sided: bool,
    training: bool,
) -> None:
    torch.manual_seed(seed)
    layer = SelfNorm(shape[1], two_sided=two_sided).train(training)
    exact = copy.deepcopy(layer).double()
    x = laid_out(maps(shape, ratio, seed).to(dtype), layout)
    check(layer, exact, x, TOLERANCE[dtype])


@given(crop=st.sampled_from(CROPS), mode=st.sampled_from(["2-instance", "1-instance"]), **common)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_crossnorm(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    ratio: float,
    seed: int,
    crop: str,
    mode: str,
) -> None:
    x = laid_out(maps(shape, ratio, seed).to(dtype), layout)
    ours, exact = (active(seed, crop=crop, mode=mode) for _ in range(2))
    check(ours, exact, x, TOLERANCE[dtype])
