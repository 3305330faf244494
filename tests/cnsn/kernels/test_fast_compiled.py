"""Layers in compiled and exported networks: one graph, the same results."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cnsn import CNSNSpec, CrossNorm, SelfNorm, crossnorm_active, insert, kernels
from cnsn.kernels import compiled as operators
from cnsn.nets import wide_resnet
from tests.cnsn.kernels.test_fast import CROPS, TOLERANCE, check, laid_out, maps


def check_one_graph(
    crop: str, x: Tensor, of_outputs: dict[str, float], of_gradients: float, **options: Any
) -> nn.Module:
    """A network trained compiled and eagerly: the same, by one graph for all boxes, sites and rows.

    Args:
        x: images of a first batch, whose dtype and device the network takes.
        of_outputs: tolerances.
        of_gradients: largest error, relative to the parameter's largest gradient.
        options: of torch.compile.

    Returns:
        The network.
    """
    torch.manual_seed(0)
    spec = CNSNSpec(kind="cnsn", crop=crop)  # type: ignore[arg-type]
    net = insert(wide_resnet(depth=10, width=1), spec).train().to(x)
    twin = copy.deepcopy(net)
    torch._dynamo.reset()
    counters.clear()
    fast = torch.compile(net, fullgraph=True, **options)
    for step, k in enumerate((0, 1, 2, 3, 3)):
        x = torch.randn_like(x)
        rows = slice(2, 5) if step == 4 else None
        outs = []
        for network, forward in ((net, fast), (twin, twin)):
            generator = torch.Generator().manual_seed(step)
            with crossnorm_active(network, k, generator, rows=rows):
                outs.append(forward(x))
            network.zero_grad()
            outs[-1].square().sum().backward()
        torch.testing.assert_close(*outs, **of_outputs)
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            error = (ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max()
            assert error < of_gradients, error
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"] and not counters["recompiles"]
    return net


@pytest.mark.parametrize("crop", CROPS)
def test_one_graph_for_all_boxes_sites_and_rows(crop: str) -> None:
    x = torch.randn(6, 3, 16, 16).double()
    check_one_graph(crop, x, {}, 1e-7, backend="aot_eager")


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (4, 3, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["1-instance", "2-instance"])
def test_compiled_layer_draws_as_the_plain_one(
    shape: tuple[int, ...], dtype: torch.dtype, mode: str
) -> None:
    layer = CrossNorm(crop="both", mode=mode)  # type: ignore[arg-type]
    layer.active = True
    torch._dynamo.reset()
    fast = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape).to(dtype)
    results = []
    for forward in (fast, layer):
        layer.generator = torch.Generator().manual_seed(5)
        leaf = x.clone().requires_grad_()
        y = forward(leaf)
        y.float().square().sum().backward()
        results.append((y.detach(), leaf.grad))
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
    assert not torch.equal(results[0][0], x)
    with kernels.disabled():
        layer.generator = torch.Generator().manual_seed(5)
        torch.testing.assert_close(fast(x), results[1][0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_selfnorm_against_float64(two_sided: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = SelfNorm(3, two_sided=two_sided)
    exact = copy.deepcopy(layer).double()
    torch._dynamo.reset()
    fast = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for shape, layout in (((4, 3, 6, 5), "channels_last"), ((5, 3, 11), "strided")):
        for ratio in (1.0, 30.0):
            x = laid_out(maps(shape, ratio, 0).to(dtype), layout)
            # This backend rounds both parts of the gradient, and their sum.
            check(fast, exact, x, TOLERANCE[dtype] if dtype == torch.float32 else 1e-2)
            layer.zero_grad()
            exact.zero_grad()


def test_traced_std_of_constant_channels_is_the_root_of_eps() -> None:
    """Also where the mean of so many equal numbers is not quite that number."""
    x = (200 * torch.randn(4, 16, 1, 1)).expand(-1, -1, 7, 9)
    mean, std = kernels.traced_statistics(x, 1e-12)
    assert not torch.equal(mean, x[:, :, :1, :1])
    torch.testing.assert_close(std, torch.full_like(std, 1e-6), rtol=1e-3, atol=0)


def test_operators_are_what_they_declare() -> None:
    site = CrossNorm(crop="both")
    site.active = True
    x = torch.randn(4, 3, 6, 5)
    mean, *_, plan = operators.draw_statistics(x, site._number)
    torch.library.opcheck(operators.content_products, (x, x, mean, plan))
    # Its results are random, which the other utilities of opcheck would call wrong.
    torch.library.opcheck(
        operators.draw_statistics, (x, site._number), test_utils=("test_schema", "test_faketensor")
    )


def test_a_default_device_is_not_asked() -> None:
    x, drawn = torch.randn(4, 3, 6, 5), (torch.tensor([2, 0, 3, 1]), (1, 0, 4, 3), None)
    results = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            site = CrossNorm()
            site.active = True
            site.draw = lambda _: drawn  # type: ignore[method-assign, assignment]
            results.append(operators.draw_statistics(x, site._number))
    torch.testing.assert_close(*results)


def test_copies_are_sites_of_their_own_and_leave_with_their_network() -> None:
    site = CrossNorm()
    copies = [site, copy.deepcopy(site), copy.copy(site), pickle.loads(pickle.dumps(site))]
    numbers = {int(c._number) for c in copies}
    assert len(numbers) == 4
    assert all(operators._sites[int(c._number)] is c for c in copies)
    del site, copies
    gc.collect()
    assert not numbers & set(operators._sites)


def test_exported_in_training_mode_with_a_batch_of_any_size() -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn"))
    twin = copy.deepcopy(net)
    batch = torch.export.Dim("batch", min=2, max=64)
    x = torch.randn(4, 3, 8, 8)
    for training in (False, True):
        program = torch.export.export(
            net.train(training), (x,), dynamic_shapes=({0: batch},)
        ).module()
        other = torch.randn(7, 3, 8, 8)
        torch.testing.assert_close(program(other), copy.deepcopy(twin).train(training)(other))


@pytest.mark.slow
def test_inductor_gives_the_same_training() -> None:
    net = check_one_graph("both", torch.randn(6, 3, 16, 16), {"rtol": 1e-4, "atol": 1e-5}, 2e-3)
    assert isinstance(net.get_submodule("block1.layer.0.cnsn.selfnorm"), SelfNorm)
