"""The fast kernels against the reference in float64, and what they promise besides."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.textbook import TextbookCrossNorm, TextbookSelfNorm
from cnsn import CNSNSpec, SelfNorm, crossnorm_active, functional, insert, kernels
from cnsn.nets import wide_resnet
from tests.cnsn.layers.test_layers import active

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
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
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
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x)
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
    st.tuples(*[st.integers(3, 5), st.integers(1, 5)], *[st.integers(1, 4)] * 2, st.integers(2, 4)),
)
common: dict[str, Any] = {
    "shape": shapes,
    "layout": st.sampled_from(LAYOUTS),
    "dtype": st.sampled_from(list(TOLERANCE)),
    "ratio": st.sampled_from([0.0, 1.0, 30.0, 1e3]),
    "seed": st.integers(0, 2**20),
    "threads": st.sampled_from([1, 2]),  # which sum and block their work differently
}


@contextmanager
def using_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@given(two_sided=st.booleans(), training=st.booleans(), **common)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_selfnorm(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    ratio: float,
    seed: int,
    threads: int,
    two_sided: bool,
    training: bool,
) -> None:
    torch.manual_seed(seed)
    layer = SelfNorm(shape[1], two_sided=two_sided).train(training)
    exact = copy.deepcopy(layer).double()
    x = laid_out(maps(shape, ratio, seed).to(dtype), layout)
    with using_threads(threads):
        check(layer, exact, x, TOLERANCE[dtype])


@given(crop=st.sampled_from(CROPS), mode=st.sampled_from(["2-instance", "1-instance"]), **common)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_crossnorm(
    shape: tuple[int, ...],
    layout: str,
    dtype: torch.dtype,
    ratio: float,
    seed: int,
    threads: int,
    crop: str,
    mode: str,
) -> None:
    x = laid_out(maps(shape, ratio, seed).to(dtype), layout)
    ours, exact = (active(seed, crop=crop, mode=mode) for _ in range(2))
    with using_threads(threads):
        check(ours, exact, x, TOLERANCE[dtype])


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_selfnorm_s_parameters(two_sided: bool, training: bool) -> None:
    layer = SelfNorm(6, two_sided=two_sided).train(training)
    exact = copy.deepcopy(layer).double()
    x = maps((16, 6, 7, 5), 1.0, 0).float()
    layer(x).square().sum().backward()
    with kernels.disabled():
        exact(x.double()).square().sum().backward()
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        error = (ours.grad.double() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error < 1e-5
    for ours, theirs in zip(layer.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)


def test_statistics_keep_their_digits_channel_by_channel() -> None:
    """Relative to each channel's own spread, 1,000 times smaller than its mean."""
    x = (torch.randn(4, 3, 30, 30) + 1e3 * torch.randn(4, 3, 1, 1)).requires_grad_()
    exact = x.detach().double()
    whole = kernels.Statistics(x, 1e-12)
    y = whole.restyled(1 / whole.std, torch.zeros_like(whole.std))
    mean, std = exact.mean((2, 3), keepdim=True), exact.std((2, 3), keepdim=True)
    torch.testing.assert_close(y.double(), (exact - mean) / std, rtol=0, atol=2e-6)
    torch.testing.assert_close(whole.std.double(), std.flatten(1), rtol=1e-6, atol=0)
    # The gradient of the std alone, of which the mean's rounding error is a part.
    (0 * y.sum() + whole.std.sum()).backward()
    assert x.grad is not None
    ours = 899 * x.grad.double()
    torch.testing.assert_close(ours, (exact - mean) / std, rtol=0, atol=5e-6)


def test_the_mean_s_rounding_error_is_made_good() -> None:
    """Where results are small and means 1,000 times larger, each way."""
    torch.manual_seed(0)
    far = 1e3 * (1 + torch.rand(1, 3, 1, 1)) * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    x = (torch.randn(2, 3, 20, 30) + far).requires_grad_()
    centred = x.detach().double() - x.detach().double().mean((2, 3), keepdim=True)
    layer = active()
    layer.partner = torch.tensor([1, 0])
    y = layer(x)
    exact = functional.exchange(x.detach().double(), layer.partner, 0, layer.eps)
    torch.testing.assert_close(y[0].double(), exact[0], rtol=0, atol=5e-6)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=0, atol=5e-6)
    # A gate of 1/2 for what is centred, and none for the mean.
    gate = SelfNorm(3, two_sided=True).eval()
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(gate.f_bn.bias, -60.0)  # type: ignore[union-attr, arg-type]
    y = gate(x)
    torch.testing.assert_close(y.double(), centred / 2, rtol=0, atol=2e-6)
    y.sum().backward()
    assert gate.g_bn.bias.grad is not None
    assert gate.g_bn.bias.grad.abs().max() < 3e-4


def test_whole_network_in_float64() -> None:
    torch.manual_seed(0)
    spec = CNSNSpec(kind="cnsn", crop="both")
    net = insert(wide_resnet(depth=10, width=1), spec).double().train()
    twin, x = copy.deepcopy(net), torch.randn(4, 3, 16, 16).double()
    with crossnorm_active(net, k=3, generator=torch.Generator().manual_seed(1)):
        net(x).square().sum().backward()
    with (
        crossnorm_active(twin, k=3, generator=torch.Generator().manual_seed(1)),
        kernels.disabled(),
    ):
        twin(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", ["selfnorm", *CROPS])
@pytest.mark.parametrize("size", [8, 32])
def test_bytes_saved_for_backward(layer: str, dtype: torch.dtype, size: int) -> None:
    """Of distinct memory, parameters apart: the map, and a few numbers a channel."""
    x = torch.randn(8, 16, size, size).to(dtype).requires_grad_()
    module: nn.Module = SelfNorm(16) if layer == "selfnorm" else active(crop=layer)
    packed: dict[int, int] = {}
    own = {p.data_ptr() for p in module.parameters()}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in own:
            packed[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    y.sum().backward()
    size_of_map = x.numel() * x.element_size()
    assert size_of_map <= sum(packed.values()) <= 1.15 * size_of_map


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("last", [False, True])
def test_twice_differentiable_crossnorm(crop: str, last: bool) -> None:
    layer = active(crop=crop)
    order, content, style = torch.tensor([2, 0, 1]), (0, 1, 2, 2), (1, 0, 2, 3)
    boxes = (content if crop in ("content", "both") else None,)
    boxes += (style if crop in ("style", "both") else None,)
    layer.draw = lambda shape: (order, *boxes)  # type: ignore[method-assign, assignment]
    x = torch.randn(3, 2, 3, 4, dtype=torch.float64)
    x = laid_out(x, "channels_last" if last else "contiguous").requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))
    # Both of them are of the same function.
    loss = layer(x).pow(3).sum()
    for_good, for_more = (
        torch.autograd.grad(loss, x, create_graph=more, retain_graph=True) for more in (False, True)
    )
    torch.testing.assert_close(for_good, for_more)


@pytest.mark.parametrize("two_sided", [False, True])
def test_twice_differentiable_selfnorm(two_sided: bool) -> None:
    layer = SelfNorm(2, two_sided=two_sided).double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_penalty_on_the_gradient_beside_the_loss() -> None:
    """Both orders in one backward."""
    layer = SelfNorm(3).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        loss = layer(x).pow(3).sum()
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        return torch.autograd.grad(loss + dx.square().sum(), [x, *layer.parameters()])

    ours = gradients()
    with kernels.disabled():
        theirs = gradients()
    torch.testing.assert_close(ours, theirs)


def test_gradients_that_only_some_inputs_want() -> None:
    layer, x = SelfNorm(3), torch.randn(4, 3, 5, 5)
    layer(x).sum().backward()
    of_parameters = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.sum().backward(retain_graph=True)
    first = leaf.grad.clone()
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * first)
    with kernels.disabled():
        layer.requires_grad_(True)
        other = x.clone().requires_grad_()
        layer(other).sum().backward()
    torch.testing.assert_close(first, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        of_parameters, [p.grad for p in layer.parameters()], rtol=1e-3, atol=1e-4
    )


def test_inputs_changed_in_place_are_noticed_and_results_may_be() -> None:
    layer, x = SelfNorm(3), torch.randn(4, 3, 5, 5, requires_grad=True)
    torch.relu_(layer(x)).sum().backward()
    with kernels.disabled():
        other = x.detach().clone().requires_grad_()
        torch.relu(layer(other)).sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-5)
    middle = x * 1
    y = layer(middle)
    middle.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_checkpointed_without_gradient_and_in_inference() -> None:
    layer, x = SelfNorm(3).eval(), torch.randn(4, 3, 5, 5, requires_grad=True)
    layer(x).square().sum().backward()
    first = x.grad.clone()
    x.grad = None
    again = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    again.square().sum().backward()
    torch.testing.assert_close(x.grad, first)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(layer(x), again)


def test_autocast_leaves_the_statistics_in_float32() -> None:
    layer, x = SelfNorm(3), 300 + torch.randn(4, 3, 20, 20)
    plain = copy.deepcopy(layer)(x)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(leaf)
        y.sum().backward()
    assert torch.equal(y, plain) and y.dtype == torch.float32


def test_transforms_take_the_reference() -> None:
    layer, x = SelfNorm(3).eval(), torch.randn(2, 4, 3, 5, 5)
    each = torch.stack([layer(part) for part in x])
    torch.testing.assert_close(torch.func.vmap(layer)(x), each)
    slope = torch.func.jvp(layer, (x[0],), (torch.ones_like(x[0]),))[1]
    h = 1e-2
    torch.testing.assert_close(
        slope, (layer(x[0] + h) - layer(x[0] - h)) / (2 * h), rtol=1e-2, atol=1e-2
    )


def test_off_switches() -> None:
    x = torch.randn(4, 3, 5, 5)
    with kernels.disabled():
        assert not kernels.suit(x)
        with kernels.disabled():
            pass
        assert not kernels.suit(x)
    assert kernels.suit(x) and not kernels.suit(x[:0]) and not kernels.suit(x.int())
    assert not kernels.suit(x.to("meta"))
    code = "import torch; from cnsn import kernels; print(kernels.suit(torch.zeros(1, 1, 2)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CNSN_KERNELS": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_empty_batches_are_refused() -> None:
    empty = torch.zeros(0, 3, 4, 4)
    for layer in (SelfNorm(3), SelfNorm(3).eval(), active()):
        with pytest.raises(ValueError, match="at least 1 sample, but got \\(0, 3, 4, 4\\)"):
            layer(empty)


def test_partners_for_another_number_of_maps_are_refused() -> None:
    x = torch.randn(4, 3, 5, 5)
    for dim, order in ((0, torch.arange(3)), (1, torch.arange(4)), (0, torch.zeros(1).long())):
        with pytest.raises(ValueError, match=rf"of shape \({len(x[0]) if dim else 4},\), but got"):
            kernels.exchanged(x, order, dim, 1e-5)


def test_wrapped_for_data_parallel_training(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        layer, x = SelfNorm(3), torch.randn(4, 3, 5, 5)
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(layer))
        wrapped(x).square().sum().backward()
        layer(x).square().sum().backward()
        for ours, theirs in zip(wrapped.parameters(), layer.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_the_benchmarks_textbook_is_the_same_arithmetic() -> None:
    x = torch.randn(5, 4, 8, 6, dtype=torch.float64)
    layer, textbook = SelfNorm(4).double(), TextbookSelfNorm(4).double()
    textbook.load_state_dict(layer.state_dict())
    torch.testing.assert_close(textbook(x), layer(x))
    for crop in CROPS:
        layer = active(3, crop=crop)
        drawn = active(3, crop=crop).draw(x.shape)
        torch.testing.assert_close(TextbookCrossNorm()(x, *drawn), layer(x))
