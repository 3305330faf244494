"""The Triton kernels and compiled networks on a GPU; without one nothing here runs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from cnsn import CNSNSpec, SelfNorm, crossnorm_active, insert, kernels
from cnsn.nets import wide_resnet
from tests.cnsn.kernels.test_fast import CROPS, LAYOUTS, TOLERANCE, check, laid_out, maps
from tests.cnsn.kernels.test_fast_compiled import check_one_graph
from tests.cnsn.layers.test_layers import active

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# Odd ones, long ones that are split, and those of the benchmarks.
SHAPES = [(3, 5, 7, 9), (4, 3, 1, 2), (4, 70, 4, 2), (5, 3, 301), (3, 2, 224, 224)]
LARGE = [(128, 32, 32, 32), (128, 128, 8, 8), (32, 256, 56, 56)]


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is handed out holds NaN, so that nothing may be left unwritten."""
    torch.cuda.empty_cache()
    blocks = [torch.full((n,), torch.nan, device="cuda") for n in [2**28, *[2**18] * 64]]
    del blocks
    yield


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_against_float64(dtype: torch.dtype, layout: str) -> None:
    for seed, (shape, ratio) in enumerate(itertools.product(SHAPES, (0.0, 30.0, 1e3))):
        x = laid_out(maps(shape, ratio, seed).to("cuda", dtype), layout)
        for two_sided in (False, True):
            torch.manual_seed(seed)
            layer = SelfNorm(shape[1], two_sided=two_sided).cuda()
            with poisoned():
                check(layer, copy.deepcopy(layer).double(), x, TOLERANCE[dtype])
        for crop in CROPS:
            ours, exact = (active(seed, crop=crop) for _ in range(2))
            with poisoned():
                check(ours, exact, x, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_large_maps(shape: tuple[int, ...], layout: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = laid_out(maps(shape, 1.0, 0).to("cuda", dtype), layout)
        layer = SelfNorm(shape[1]).cuda()
        check(layer, copy.deepcopy(layer).double(), x, TOLERANCE[dtype])
        for crop in ("neither", "both"):
            ours, exact = (active(1, crop=crop) for _ in range(2))
            check(ours, exact, x, TOLERANCE[dtype])


def test_a_new_box_compiles_nothing() -> None:
    """Boxes of one row, of 16, of odd sizes, of which Triton makes kernels of their own if let."""
    from cnsn.kernels import tile_exchange, tile_sums

    x = torch.randn(4, 8, 32, 32, device="cuda", requires_grad=True)
    layer = active(0, crop="both")
    layer(x).sum().backward()
    compiled = [tile_sums.moments, tile_sums.products]
    compiled += [tile_exchange.exchange, tile_exchange.exchange_gradient]
    before = [_versions(kernel) for kernel in compiled]
    for seed in range(1, 40):
        layer.generator = torch.Generator().manual_seed(seed)
        layer(x).sum().backward()
    assert before == [_versions(kernel) for kernel in compiled]
    assert all(before)


def _versions(kernel: Any) -> int:
    """Compiled versions that a Triton function holds for this device."""
    return len(kernel.device_caches[torch.cuda.current_device()][0])


def test_layers_wait_for_nothing() -> None:
    x = torch.randn(4, 8, 32, 32, device="cuda", requires_grad=True)
    layers: list[nn.Module] = [SelfNorm(8).cuda(), *(active(crop=crop) for crop in CROPS)]
    for layer in layers:
        layer(x).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for layer in layers:
            layer(x).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("crop", CROPS)
def test_compiled_network_is_one_graph(crop: str) -> None:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        x = torch.randn(6, 3, 16, 16, device="cuda")
        check_one_graph(crop, x, {"rtol": 1e-3, "atol": 1e-4}, 1e-2)


def test_whole_network_against_float64() -> None:
    torch.manual_seed(0)
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", crop="both")).cuda().train()
    exact = copy.deepcopy(net).double()
    x = torch.randn(8, 3, 16, 16, device="cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for network, images in ((net, x), (exact, x.double())):
            with (
                crossnorm_active(network, k=3, generator=torch.Generator().manual_seed(1)),
                kernels.disabled() if images.dtype == torch.float64 else poisoned(),
            ):
                network(images).square().sum().backward()
    for ours, theirs in zip(net.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        error = (ours.grad.double() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error < 2e-3
