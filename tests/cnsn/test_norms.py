"""Normalisations in the place of batch norms, each against a loop over samples."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, insert, replace_norms
from cnsn.nets import NarrowResNet
from cnsn.nets.resnet import IBN
from cnsn.norms import NORMS, AttentiveNorm, NormsSpec, SwitchableNorm
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.optim import OptimizerSpec


def learnt(channels: int = 6) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(channels).double()
    for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        value.copy_(0.5 + torch.rand(channels, generator=generator))  # type: ignore[union-attr]
    return norm


def maps() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 + torch.randn(5, 6, 4, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
def test_switchable_is_a_loop_over_samples(training: bool) -> None:
    norm = learnt()
    layer = SwitchableNorm.of(norm).double().train(training)
    layer.mean_weight.data = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    layer.var_weight.data = torch.tensor([-0.5, 0.4, 0.1], dtype=torch.float64)
    of_mean, of_var = (np.exp(w.detach().numpy()) for w in (layer.mean_weight, layer.var_weight))
    of_mean, of_var = of_mean / of_mean.sum(), of_var / of_var.sum()
    x = maps().numpy()
    running = [norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()]  # type: ignore[union-attr]
    batch = [x.mean((0, 2, 3)), x.var((0, 2, 3))] if training else running
    expected = np.empty_like(x)
    for sample in range(5):
        for channel in range(6):
            own = x[sample, channel]
            mean = of_mean @ [own.mean(), x[sample].mean(), batch[0][channel]]
            var = of_var @ [own.var(), x[sample].var(), batch[1][channel]]
            weight, bias = (p[channel].item() for p in (norm.weight, norm.bias))
            expected[sample, channel] = weight * (own - mean) / np.sqrt(var + 1e-5) + bias
    assert np.abs(layer(maps()).detach().numpy() - expected).max() < 1e-9
    if training:
        other = learnt()
        other(maps())
        assert torch.allclose(layer.running_mean, other.running_mean)  # type: ignore[arg-type]
        assert torch.allclose(layer.running_var, other.running_var)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(layer, maps()[:2, :, :2, :2].requires_grad_())
    layer.mean_weight.data = layer.var_weight.data = torch.tensor([-1e3, -1e3, 0.0]).double()
    assert torch.allclose(layer(maps()), learnt().train(training)(maps()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_attentive_is_its_formula(training: bool) -> None:
    torch.manual_seed(0)
    norm = learnt()
    layer = AttentiveNorm.of(norm).train(training)
    x = maps().numpy()
    mean, var = x.mean((2, 3)), x.var((2, 3), ddof=1)
    score = (mean / np.sqrt(var + 1e-3)) @ layer.fc.weight.detach().numpy().T
    if training:
        score = (score - score.mean(0)) / np.sqrt(score.var(0) + 1e-5)
    else:
        score = score / np.sqrt(1 + 1e-5)
    shares = np.clip(score / 6 + 0.5, 0, 1)
    gain, shift = (shares @ p.detach().numpy() for p in (layer.weight, layer.bias))
    plain = nn.BatchNorm2d(6, affine=False).double().train(training)
    plain.load_state_dict({k: v for k, v in norm.state_dict().items() if "running" in k}, False)
    expected = gain[..., None, None] * plain(maps()).numpy() + shift[..., None, None]
    assert np.abs(layer(maps()).detach().numpy() - expected).max() < 1e-9
    spread = 5 * layer.weight.detach() / norm.weight.detach()
    assert abs(spread.mean() - 1) < 4 * 0.1 / 60**0.5


def test_ibn_a_is_instance_and_batch_norm_with_what_was_learnt() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), learnt().float()).eval()
    old = copy.deepcopy(net[1])
    replace_norms(net, "ibn_a", where="1")
    x = maps().float()
    normal = nn.functional.instance_norm(x[:, :3], weight=old.weight[:3], bias=old.bias[:3])
    expected = torch.cat([normal, old(x)[:, 3:]], 1)
    assert torch.allclose(net[1](x), expected, rtol=0, atol=1e-5)


USUAL = {
    "switchable": ["bn1", *(f"layer{i}.{b}.bn{n}" for i in (1, 2) for b in (0, 1) for n in (1, 2)),
                   "layer2.0.downsample.1"],
    "attentive": [f"layer{i}.{b}.bn2" for i in (1, 2) for b in (0, 1)],
    "ibn_a": ["layer1.0.bn1", "layer1.1.bn1"],
}  # fmt: skip


@pytest.mark.parametrize("kind", NORMS)
def test_usual_places_copies_and_a_step_with_the_layers(kind: str) -> None:
    torch.manual_seed(0)
    net = replace_norms(NarrowResNet(width=8, blocks=(2, 2)), kind)
    types = (SwitchableNorm, AttentiveNorm, IBN)
    assert sorted(n for n, m in net.named_modules() if isinstance(m, types)) == sorted(USUAL[kind])
    insert(net, CNSNSpec(kind="cnsn"))
    x = torch.randn(4, 3, 32, 32)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
    exported = torch.export.export(net, (x,)).module()
    assert torch.allclose(exported(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_task_replaces_them_before_the_layers_go_in() -> None:
    parts = (CNSNSpec(kind="sn"), CrossNormTraining(), OptimizerSpec())
    task = CNSNModule(NarrowResNet(blocks=(1,)), *parts, norms=NormsSpec(kind="switchable"))
    assert isinstance(task.network.layer1[0].bn2, SwitchableNorm)
    assert isinstance(task.network.layer1[0].cnsn.selfnorm.g_bn, nn.BatchNorm1d)


def test_bad_options() -> None:
    net = NarrowResNet(blocks=(1,))
    with pytest.raises(ValueError, match="`kind` to be one of"):
        replace_norms(net, "layer")
    with pytest.raises(ValueError, match="`kind` to be one of"):
        NormsSpec(kind="layer")
    with pytest.raises(ValueError, match="`where` to be left out with `kind` none"):
        NormsSpec(where="bn")
    with pytest.raises(ValueError, match="at 'norm9', but there is none"):
        replace_norms(net, "switchable", where="norm9")
    with pytest.raises(ValueError, match="at the usual places, but there is none"):
        replace_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), "attentive")
    assert not any(isinstance(m, SwitchableNorm) for m in net.modules())
