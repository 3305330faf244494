"""SelfNorm's relatives against NumPy in float64 and against other libraries."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import EcaModule, SEModule
from torch import Tensor, nn

from cnsn import (
    ECA,
    SE,
    SNR,
    SRM,
    CNSNSpec,
    SelfNorm,
    StyleSE,
    insert,
    kernels,
    load_official,
)
from cnsn.nets import NarrowResNet

Array = np.ndarray


def maps(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 1 + torch.randn(shape or (4, 8, 5, 3), generator=generator, dtype=torch.float64)


def drawn(layer: Any) -> Any:
    """With parameters that differ from their starts."""
    generator = torch.Generator().manual_seed(1)
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return layer.double()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def perceptron(layer: SE, x: Array) -> Array:
    w1, b1, w2, b2 = (
        p.detach().numpy()
        for p in (layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias)
    )
    return sigmoid(np.maximum(x @ w1.T + b1, 0) @ w2.T + b2)


def expected(layer: Any, x: Array) -> Array:
    mean, std = x.mean((2, 3)), x.std((2, 3), ddof=1)
    if isinstance(layer, SNR):
        weight, bias = (p.detach().numpy()[:, None, None] for p in (layer.weight, layer.bias))
        variance = x.var((2, 3), keepdims=True)
        normal = weight * (x - mean[..., None, None]) / np.sqrt(variance + 1e-5) + bias
        rest = x - normal
        return normal + perceptron(layer, rest.mean((2, 3)))[..., None, None] * rest
    if isinstance(layer, SE):
        numbers = np.concatenate([mean, std], 1) if isinstance(layer, StyleSE) else mean
        return perceptron(layer, numbers)[..., None, None] * x
    (kernel,) = layer.conv.weight.detach().numpy()[0]
    padded = np.pad(mean, ((0, 0), (len(kernel) // 2,) * 2))
    score = np.stack([padded[:, c : c + len(kernel)] @ kernel for c in range(x.shape[1])], 1)
    return sigmoid(score)[..., None, None] * x


LAYERS = [SE(8, reduction=2), StyleSE(8, reduction=4), SNR(8, reduction=2), ECA(8)]


@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "reference"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_equals_numpy_with_gradients(layer: Any, reference: bool) -> None:
    layer = drawn(copy.deepcopy(layer))
    with kernels.disabled() if reference else torch.enable_grad():
        assert np.abs(layer(maps()).detach().numpy() - expected(layer, maps().numpy())).max() < 1e-9
        x = maps(2, 8, 2, 2).requires_grad_()
        assert torch.autograd.gradcheck(layer, x)


def test_are_timm_s() -> None:
    x = maps(3, 32, 4, 4)
    theirs, ours = SEModule(32, rd_channels=2).double(), SE(32).double()
    ours.load_state_dict(
        {k: v.flatten(1) if v.ndim > 1 else v for k, v in theirs.state_dict().items()}
    )
    assert torch.allclose(ours(x), theirs(x), rtol=0, atol=1e-12)
    for channels in (4, 16, 64, 100, 128, 512, 2048):
        eca, other = ECA(channels), EcaModule(channels)
        assert eca.conv.weight.shape == other.conv.weight.shape, channels
    eca, other = ECA(32).double(), EcaModule(32).double()
    eca.load_state_dict(other.state_dict())
    assert torch.allclose(eca(x), other(x), rtol=0, atol=1e-12)


def test_srm_is_selfnorm_with_other_weights() -> None:
    selfnorm, srm = SelfNorm(8), SRM(8)
    assert not srm.g_fc.weight.any()
    srm.load_state_dict(selfnorm.state_dict())
    x = maps().float()
    assert torch.equal(srm(x), selfnorm(x)) and torch.equal(srm.eval()(x), selfnorm.eval()(x))
    released = srm.released()
    assert released["cfc"].shape == (8, 2) and set(released) == {
        "cfc", *(f"bn.{k}" for k in nn.BatchNorm1d(1).state_dict())
    }  # fmt: skip
    again = nn.Sequential(SRM(8))
    again.load_state_dict({f"0.{key}": value for key, value in released.items()})
    assert torch.equal(again.eval()(x), srm(x))


def test_style_se_sees_the_spread() -> None:
    """Maps with equal means: SE cannot tell them apart."""
    x = maps(2, 8, 4, 4)
    wide = x.mean((2, 3), keepdim=True) + 2 * (x - x.mean((2, 3), keepdim=True))
    for layer, differs in ((SE(8, reduction=2), False), (StyleSE(8, reduction=2), True)):
        gates = [(layer.double()(z) / z)[..., 0, 0] for z in (x, wide)]
        assert torch.allclose(*gates, rtol=0, atol=1e-9) != differs


@pytest.mark.parametrize("gate", ["srm", "se", "style_se", "snr"])
def test_open_start_leaves_a_network_as_it_was(gate: str) -> None:
    torch.manual_seed(0)
    net, x = NarrowResNet(width=16, blocks=(1, 1)).eval(), torch.randn(8, 3, 48, 48)
    before = net(x)
    insert(net, CNSNSpec(kind="sn", gate=gate, start="neutral", position="residual"))
    assert 0 < (net.eval()(x) - before).norm() < 0.1 * before.norm()


def test_another_gate_s_checkpoint_is_refused(tmp_path: Path) -> None:
    nets = [
        insert(NarrowResNet(blocks=(1,)), CNSNSpec(kind="sn", gate=gate))
        for gate in ("selfnorm", "se")
    ]
    torch.save(nets[0].state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"missing: .*selfnorm\.fc1\.weight.*unexpected: .*g_fc"):
        load_official(nets[1], tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "senet"}, "`gate` to be one of"),
        ({"gate": "se", "two_sided": True}, "`two_sided` to be left out, but got True: se reads"),
        ({"reduction": 8}, "`reduction` to be left out, but got 8: selfnorm reads two_sided"),
        ({"gate": "se", "reduction": 0}, "`reduction` to be at least 1, but got 0"),
        ({"gate": "snr", "reduction": 17}, "at most 16, the number of channels, but got 17"),
        ({"gate": "eca", "start": "neutral"}, "ECA has no other start"),
        ({"gate": "se", "kind": "cn"}, "`kind` to be sn or cnsn for `gate` 'se', but got 'cn'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    net = NarrowResNet(width=16, blocks=(1,))
    with pytest.raises(ValueError, match=message):
        insert(net, CNSNSpec(**{"kind": "sn"} | options))
    assert not any("cnsn" in name for name, _ in net.named_modules())
