"""Networks with the layers through torch.fx and torch.jit."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from cnsn import CNSN, CNSNSpec, CrossNorm, SelfNorm, crossnorm_active, crossnorm_sites, insert


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    net = resnet18(num_classes=3)
    return insert(net, CNSNSpec(kind="cnsn", cn_position="out", crop="both", stages=(1, 2)))


@pytest.fixture
def net(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network)


def equal_while_active(one: nn.Module, two: nn.Module, x: torch.Tensor) -> bool:
    outputs = [one.train()(x)]
    for module in (one, two):
        with crossnorm_active(module.train(), 2, torch.Generator().manual_seed(3)):
            outputs.append(module(x))
    return torch.equal(*outputs[1:]) and not torch.equal(*outputs[:2])


def test_symbolic_trace(net: nn.Module) -> None:
    x = torch.randn(3, 3, 32, 32)
    expected = copy.deepcopy(net).eval()(x)
    traced = torch.fx.symbolic_trace(net.train())
    targets = [str(n.target) for n in traced.graph.nodes if n.op == "call_module"]
    assert {"layer1.0.crossnorm", "layer2.1.cnsn.selfnorm"} <= set(targets)
    assert torch.equal(traced.eval()(x), expected)
    assert len(crossnorm_sites(traced)) == len(crossnorm_sites(net)) == 4
    twin = copy.deepcopy(net)
    again = pickle.loads(pickle.dumps(copy.deepcopy(traced)))
    assert equal_while_active(again, twin, x)


def test_features(net: nn.Module) -> None:
    assert get_graph_node_names(net)[0] == get_graph_node_names(net)[1]
    x = torch.randn(3, 3, 32, 32)
    features = create_feature_extractor(net, ["layer2", "layer1.0.crossnorm", "fc"])
    seen: list[torch.Tensor] = []
    net.layer2.register_forward_hook(lambda module, inputs, y: seen.append(y))
    logits = net.eval()(x)
    found = features.eval()(x)
    assert torch.equal(found["fc"], logits) and torch.equal(found["layer2"], seen[0])
    with crossnorm_active(features.train(), 4, torch.Generator().manual_seed(3)):
        found = features(x)
    with crossnorm_active(net.train(), 4, torch.Generator().manual_seed(3)):
        net(x)
    assert torch.equal(found["layer2"], seen[1]) and not torch.equal(seen[1], seen[0])


def test_masks_and_single_layers_are_traced() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = CNSN(crossnorm=CrossNorm(), selfnorm=SelfNorm(3))

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.layers(x, mask)

    net = Text().eval()
    x, mask = torch.randn(4, 3, 7), torch.arange(7) < torch.tensor([7, 3, 4, 5])[:, None]
    assert torch.equal(torch.fx.symbolic_trace(net)(x, mask), net(x, mask))


def test_jit(net: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    traced = torch.jit.trace(net.eval(), x)
    other = torch.randn(5, 3, 40, 40)
    torch.testing.assert_close(traced(other), net(other))
    for module in (net, CrossNorm(), SelfNorm(3)):
        with pytest.raises(
            RuntimeError, match=r"^Expected a network without \w+Norm for torch.jit.sc"
        ):
            torch.jit.script(module)
