"""Taking the layers out, starting near the plain network, and the context that switches them on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from cnsn import (
    CNSN,
    CNSNSpec,
    CrossNorm,
    SelfNorm,
    crossnorm_active,
    crossnorm_sites,
    insert,
    remove,
)
from cnsn.layers import Gate
from cnsn.nets import allconv, densenet40, resnet50_ibn, wide_resnet

CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, object]]] = {
    "block": (models.resnet18, {}),
    "block, apart": (models.resnet18, {"cn_position": "out", "stages": (2, 4)}),
    "block and image": (models.resnet18, {"image": True}),
    "own block": (lambda: wide_resnet(depth=10, width=1), {"cn_position": "pre"}),
    "block with IBN": (resnet50_ibn, {}),
    "dense": (densenet40, {"position": "conv1_pre"}),
    "chain": (lambda: allconv(width=4), {"position": "act", "cn_position": "conv"}),
    "output": (models.resnet18, {"at": r"layer\d\.\d$"}),
    "output of a chain, and image": (models.resnet18, {"at": r"layer\d$", "image": True}),
    "output of a container": (models.densenet121, {"at": r"denseblock\d$"}),
    "image of a chain": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), {"kind": "cn", "image": True}),
}


def signature(net: nn.Module) -> list[object]:
    """All that can be seen of a network but its numbers."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    names = [(name, type(m), set(vars(m))) for name, m in net.named_modules()]
    return [names, hooks, list(net.state_dict())]


@pytest.mark.parametrize("name", list(CASES))
def test_removed_layers_leave_the_plain_network(name: str) -> None:
    build, options = CASES[name]
    torch.manual_seed(0)
    plain = build()
    spec = CNSNSpec(**({"kind": "cnsn"} | options))  # type: ignore[arg-type]
    x = torch.randn(2, 3, 32, 32)
    net = insert(copy.deepcopy(plain), spec).eval()
    net(x)
    assert signature(net) != signature(plain)
    twin = pickle.loads(pickle.dumps(net))
    assert remove(net) is net
    for result in (net, remove(twin)):
        assert signature(result) == signature(plain)
        assert torch.equal(result.eval()(x), plain.eval()(x))
    # Nothing is left that would be in the way of inserting anew.
    insert(net, spec)


@pytest.mark.parametrize("name", list(CASES))
def test_without_crossnorm_selfnorm_stays(name: str) -> None:
    build, options = CASES[name]
    torch.manual_seed(0)
    net = insert(build(), CNSNSpec(**({"kind": "cnsn"} | options))).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 3, 32, 32)
    expected = net(x)
    gates = [m for m in net.modules() if isinstance(m, SelfNorm)]
    remove(net, "crossnorm")
    assert crossnorm_sites(net) == []
    assert [m for m in net.modules() if isinstance(m, SelfNorm)] == gates
    assert torch.equal(net(x), expected)
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_removed_crossnorm_alone_is_the_plain_network() -> None:
    plain = models.resnet18()
    for at in (None, r"layer\d\.\d$"):
        net = remove(insert(copy.deepcopy(plain), CNSNSpec(kind="cn"), at=at), "crossnorm")
        assert signature(net) == signature(plain)


def test_nothing_to_remove_and_what_cannot_be() -> None:
    plain = models.resnet18()
    assert signature(remove(plain)) == signature(models.resnet18())
    with pytest.raises(ValueError, match=r"^Expected `what` to be one of"):
        remove(plain, "selfnorm")  # type: ignore[arg-type]

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = insert(models.resnet18(), CNSNSpec(kind="cnsn"))
            self.layer = CNSN(crossnorm=CrossNorm())

    own = Own()
    before = signature(own)
    for what in ("all", "crossnorm"):
        with pytest.raises(ValueError, match=r"`layer.crossnorm` is called by the network's own"):
            remove(own, what)  # type: ignore[arg-type]
    assert signature(own) == before


def moved(net: nn.Module, plain: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected = plain(x)
        return float((net(x) - expected).norm() / expected.norm())


def trained(net: nn.Module) -> nn.Module:
    """Batch norms whose averages fit the maps, as pretrained ones do."""
    net.train()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        net(torch.randn(16, 3, 64, 64))
    return net


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("at", [None, r"layer\d\.\d$", r"^layer\d$"])
def test_a_neutral_start_moves_little_and_learns(two_sided: bool, at: str | None) -> None:
    torch.manual_seed(0)
    plain = trained(models.resnet18(num_classes=5))
    x = torch.randn(8, 3, 64, 64)
    spec = CNSNSpec(kind="cnsn", start="neutral", two_sided=two_sided)
    net = insert(copy.deepcopy(plain), spec, at=at)
    released = insert(copy.deepcopy(plain), CNSNSpec(kind="cnsn", two_sided=two_sided), at=at)
    for mode in (False, True):
        assert 0 < moved(net.train(mode), plain.train(mode), x) <= 0.05
    assert moved(released.eval(), plain.eval(), x) > 0.3
    net.train()(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 0, name


def test_each_gate_moves_its_map_by_less_than_the_share() -> None:
    for channels in (1, 64):
        gate = SelfNorm(channels, two_sided=True)
        gate.open(0.01)
        x = torch.randn(16, channels, 8, 8) + torch.randn(16, channels, 1, 1)
        for mode in (True, False):
            y = gate.train(mode)(x)
            assert 0.985 * x.norm() < y.norm() < x.norm()


def test_auto_is_the_released_start() -> None:
    states = []
    for options in ({}, {"start": "auto"}, {"start": "released"}):
        torch.manual_seed(0)
        net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="sn", **options))  # type: ignore[arg-type]
        states.append(net.state_dict())
    for key, value in states[0].items():
        assert all(torch.equal(value, state[key]) for state in states), key
    assert not states[0]["block1.layer.0.cnsn.selfnorm.g_bn.bias"].any()


def test_a_layer_without_a_neutral_start_says_so() -> None:
    class Half(Gate):
        pass

    with pytest.raises(ValueError, match="since Half has no other start"):
        Half(3).open(0.1)


def test_the_mode_reaches_crossnorm() -> None:
    net = insert(models.resnet18(), CNSNSpec(kind="cn", mode="1-instance", crop="both"))
    assert {site.mode for site in crossnorm_sites(net)} == {"1-instance"}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"^Expected `mode`"):
        CNSNSpec(mode="3-instance")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"start": "open"},
        {"channel_dim": 2},
        {"channel_dim": 1, "prefix_tokens": 1},
        {"at": "("},
        {"at": ()},
        {"at": "x", "stages": (1,)},
    ],
)
def test_specs_out_of_range(options: dict[str, object]) -> None:
    key = list(options)[-1]
    with pytest.raises(ValueError, match=rf"^Expected `{key}`"):
        CNSNSpec(**options)  # type: ignore[arg-type]


def test_all_sites_are_those_of_k_and_draw_the_same() -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn")).train()
    x = torch.randn(4, 3, 8, 8)
    results = []
    for k in ("all", 3):
        with crossnorm_active(net, k, torch.Generator().manual_seed(0)) as active:  # type: ignore[arg-type]
            assert len(active) == 3
            results.append(net(x))
    assert torch.equal(*results)
    with pytest.raises(ValueError, match="a number or 'all', but got 'every'"):
        crossnorm_active(net, "every").__enter__()  # type: ignore[arg-type]


def test_a_network_without_sites_passes_when_asked() -> None:
    baseline = models.resnet18()
    for k in (0, 1, 99, "all"):
        with crossnorm_active(baseline, k, strict=False) as active:  # type: ignore[arg-type]
            assert active == []
    with (
        pytest.raises(ValueError, match=r"from 0 to 0.*strict=False"),
        crossnorm_active(baseline, "all"),
    ):
        pass
    with pytest.raises(ValueError, match="got -1"), crossnorm_active(baseline, -1, strict=False):
        pass
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn"))
    with pytest.raises(ValueError, match="0 to 3"), crossnorm_active(net, 4, strict=False):
        pass


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_made_in_the_context_is_inactive(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn")).train()
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(net)(x)
    options = {"partner": torch.tensor([1, 0]), "rows": slice(0, 2)}
    with crossnorm_active(net, "all", torch.Generator(), **options):  # type: ignore[arg-type]
        twin = copied(net)
        assert all(site.active for site in crossnorm_sites(net))
    for site in crossnorm_sites(twin):
        assert (site.active, site.generator, site.partner, site.rows) == (False, None, None, None)
    assert torch.equal(twin(x), expected)


def test_hooks_on_the_batch_norm_run_and_those_on_the_linear_map_do_not() -> None:
    """What SelfNorm's docstring says."""
    layer, called = SelfNorm(3), []
    layer.g_bn.register_forward_hook(lambda *_: called.append("bn"))
    layer.g_fc.register_forward_hook(lambda *_: called.append("fc"))
    layer(torch.randn(4, 3, 5, 5))
    assert called == ["bn"] and "hooks on them do not run" in str(SelfNorm.__doc__)
