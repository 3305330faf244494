"""What holds for every layer that can be inserted: a new row of the tables is tested as it is."""

from __future__ import annotations

import copy
import io
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnsn import CNSNSpec, crossnorm_active, crossnorm_sites, insert, remove
from cnsn.kinds import GATES, RESTYLINGS
from cnsn.layers import Restyling
from cnsn.layers.base import _say_eager
from cnsn.nets import NarrowResNet

NAMES = [("restyle", name) for name in RESTYLINGS] + [("gate", name) for name in GATES]
EVERY = pytest.mark.parametrize(("field", "name"), NAMES, ids=[name for _, name in NAMES])
SMALL = {"reduction": 4}
# Their graphs have tests of their own.
COMPILED = ("crossnorm", "selfnorm", "srm")


def spec_of(field: str, name: str, **options: Any) -> CNSNSpec:
    rows: dict[str, Any] = {"restyle": RESTYLINGS, "gate": GATES}[field]
    options |= {k: v for k, v in SMALL.items() if k in rows[name].options}
    return CNSNSpec(kind="cn" if field == "restyle" else "sn", **{field: name}, **options)


def layer_of(field: str, name: str, channels: int = 4, **layout: int) -> Any:
    torch.manual_seed(0)
    if field == "restyle":
        layer: Any = RESTYLINGS[name].build(spec_of(field, name), **layout)
        layer.active = True
        return layer
    return GATES[name].build(spec_of(field, name), channels, **layout)


def network(field: str, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    net = NarrowResNet(width=8, blocks=(1, 1), num_classes=5)
    return insert(net, spec_of(field, name, **options))


def output(net: nn.Module, x: Tensor) -> Tensor:
    """In training mode, with the same draws for every caller."""
    with crossnorm_active(net.train(), "all", torch.Generator().manual_seed(3), strict=False):
        return net(x)


X = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@EVERY
def test_copies_and_removal(field: str, name: str) -> None:
    torch.manual_seed(0)
    plain = NarrowResNet(width=8, blocks=(1, 1), num_classes=5).eval()
    expected = plain(X)
    net = insert(plain, spec_of(field, name))
    assert any(key.startswith("layer1.0.cnsn.selfnorm.") for key in net.state_dict()) == (
        field == "gate"
    )
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    copies = [copy.deepcopy(net), torch.load(file, weights_only=False)]
    y = output(net, X)
    assert all(torch.equal(output(other, X), y) for other in copies)
    if field == "restyle":
        assert not torch.equal(copies[0](X), y), "it restyles nothing"
        assert torch.equal(copies[1].eval()(X).argmax(1), copies[1](X).argmax(1))
    torch.manual_seed(0)
    fresh = NarrowResNet(width=8, blocks=(1, 1), num_classes=5).eval()
    assert torch.equal(remove(insert(fresh, spec_of(field, name)))(X), expected)


@EVERY
def test_export_and_half_precision(field: str, name: str) -> None:
    net = network(field, name).eval()
    exported = torch.export.export(net, (X,)).module()
    assert torch.allclose(exported(X), net(X), rtol=0, atol=1e-5)
    net = network(field, name)
    y, half = output(net, X), output(network(field, name).bfloat16(), X.bfloat16())
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = output(network(field, name), X)
    for other in (half, mixed):
        assert (other.float() - y).abs().mean() < 0.1 * y.abs().mean() + 0.05


@EVERY
def test_masks(field: str, name: str) -> None:
    """Sequences give the same with whatever behind them; a mask of ones is no mask."""
    layer = layer_of(field, name)
    x = torch.randn(6, 4, 9, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([9, 5, 7, 2, 9, 1])
    mask = torch.arange(9) < lengths[:, None]
    found = []
    for filled in (x, x.masked_fill(~mask[:, None], 7.0), x.masked_fill(~mask[:, None], 0)):
        layer.generator = torch.Generator().manual_seed(0)
        found.append(
            copy.deepcopy(layer).train()(filled, mask) if field == "gate" else layer(filled, mask)
        )
    own = mask[:, None].expand_as(x)
    assert torch.allclose(found[0][own], found[1][own], rtol=0, atol=1e-6)
    assert not found[2][~own].any() and found[0].isfinite().all()
    if field == "restyle":
        assert torch.allclose(found[0][-1, :, :1], x[-1, :, :1], atol=1e-5) or not layer.PAIRED
    whole = []
    for own_mask in (None, torch.ones(6, 9, dtype=torch.bool)):
        layer.generator = torch.Generator().manual_seed(0)
        other = copy.deepcopy(layer) if field == "gate" else layer
        whole.append(other(x, own_mask))
    assert torch.allclose(*whole, rtol=0, atol=1e-5)


@EVERY
def test_layouts(field: str, name: str) -> None:
    x = torch.randn(4, 4, 6, generator=torch.Generator().manual_seed(2))
    prefix = torch.full((4, 2, 4), 9.0)
    results = []
    for layout, given in (
        ({}, x),
        ({"channel_dim": -1}, x.mT),
        ({"channel_dim": -1, "prefix_tokens": 2}, torch.cat([prefix, x.mT], 1)),
    ):
        layer = layer_of(field, name, **layout)
        layer.generator = torch.Generator().manual_seed(0)
        results.append(layer(given))
    assert torch.allclose(results[1].mT, results[0], rtol=0, atol=1e-5)
    assert torch.equal(results[2][:, :2], prefix)
    assert torch.allclose(results[2][:, 2:].mT, results[0], rtol=0, atol=1e-5)


@EVERY
def test_dead_channels_and_gradients(field: str, name: str) -> None:
    layer = layer_of(field, name)
    x = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    x[:, 1], x[0, 2] = 0, 5
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        own = x.to(dtype, copy=True).requires_grad_()
        y = layer.to(dtype)(own)
        y.float().square().sum().backward()
        assert y.isfinite().all() and own.grad is not None and own.grad.isfinite().all()
        assert y.dtype == dtype


@pytest.mark.parametrize("name", [name for name in RESTYLINGS if name != "crossnorm"])
def test_a_batch_of_one_and_rows(name: str) -> None:
    layer = layer_of("restyle", name)
    x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(layer(x[:1]), x[:1])
    layer.rows, layer.generator = slice(1, 4), torch.Generator().manual_seed(0)
    found = layer(x)
    layer.rows, layer.generator = None, torch.Generator().manual_seed(0)
    assert torch.equal(found, torch.cat([x[:1], layer(x[1:4]), x[4:]]))
    layer.active = False
    assert layer(x) is x and layer.eval()(x) is x


@pytest.mark.parametrize("name", RESTYLINGS)
def test_partners(name: str) -> None:
    layer = layer_of("restyle", name)
    x = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    layer.partner = torch.tensor([0, 1, 2])
    if layer.PAIRED:
        assert torch.allclose(layer(x), x, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="`partner` to be None for"):
            layer(x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", RESTYLINGS)
def test_recomputation(name: str, reentrant: bool) -> None:
    gradients = []
    for recomputed in (False, True):
        net = network("restyle", name).train()
        x = X.clone().requires_grad_()
        with crossnorm_active(net, 2, torch.Generator().manual_seed(0)):
            y = checkpoint(net, x, use_reentrant=reentrant) if recomputed else net(x)
        y.square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("field", "name"), [n for n in NAMES if n[1] not in COMPILED])
def test_compiled(field: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """In a graph, or outside of it with one line in the log."""
    torch.compiler.reset()
    _say_eager.cache_clear()
    layer, compiled = layer_of(field, name), layer_of(field, name)
    run = torch.compile(nn.Sequential(nn.Identity(), compiled), backend="aot_eager")
    x = torch.randn(4, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    found = []
    with caplog.at_level(logging.INFO, "cnsn"):
        for own, call in ((layer, layer), (compiled, run)):
            for _ in range(2):
                own.generator = torch.Generator().manual_seed(0)
                given = x.clone().requires_grad_()
                y = call(given)
                y.square().sum().backward()
            found.append((y, given.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=0, atol=1e-4)
    lines = [r.message for r in caplog.records if "outside of compiled" in r.message]
    assert len(lines) == isinstance(layer, Restyling)


DDP = """
import sys, torch
from torch import distributed, nn
from cnsn import crossnorm_active
from tests.cnsn.test_kinds import NAMES, network, X
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1],
                               rank=int(sys.argv[2]), world_size=2)
for field, name in NAMES:
    net = nn.parallel.DistributedDataParallel(network(field, name).train())
    for step in range(2):
        with crossnorm_active(net, "all", torch.Generator().manual_seed(step), strict=False):
            net(X + distributed.get_rank()).square().sum().backward()
    total = torch.cat([p.grad.flatten() for p in net.parameters()])
    both = [torch.empty_like(total) for _ in range(2)]
    distributed.all_gather(both, total)
    assert torch.equal(*both) and total.isfinite().all(), name
print("equal")
"""


@pytest.mark.slow
def test_distributed(tmp_path: Path, root: Path) -> None:
    """Every parameter has a gradient, the same in both processes."""
    command = [sys.executable, "-c", DDP, str(tmp_path / "store")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen([*command, str(rank)], cwd=root, **pipes) for rank in range(2)]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restyle": "mix"}, "`restyle` to be one of"),
        (
            {"restyle": "mixstyle", "crop": "both"},
            "`crop` to be left out, but got 'both': mixstyle",
        ),
        ({"restyle": "efdmix", "detach": True}, "`detach` to be left out.* efdmix reads alpha"),
        ({"restyle": "covariance", "alpha": 0.0}, "covariance reads no option"),
        ({"alpha": 0.1}, "crossnorm reads crop, beta, min_area, mode"),
        ({"restyle": "dsu", "factor": -1.0}, "`factor` to be finite"),
        ({"restyle": "moments", "orders": ()}, "`orders` to hold one or both"),
        ({"kind": "none", "restyle": "dsu"}, "`kind` to be cn or cnsn for `restyle` 'dsu'"),
        ({"kind": "sn", "restyle": "dsu"}, "but got 'sn'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNSNSpec(**{"kind": "cn"} | options)


def test_too_many_channels_are_refused_at_insertion() -> None:
    net = NarrowResNet(width=513, blocks=(1,))
    for options in ({}, {"position": "pre", "cn_position": "out"}):
        with pytest.raises(ValueError, match="at most 512 channels for CovarianceExchange"):
            insert(net, CNSNSpec(kind="cn", restyle="covariance", **options))  # type: ignore[arg-type]
    assert not crossnorm_sites(net)
