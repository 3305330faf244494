"""The layers in networks of other libraries; docs/networks.md says which."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, crossnorm_active, crossnorm_sites, insert
from tests.cnsn.network_cases import CASES, Case

NETWORKS = [
    pytest.param(case, id=case.id, marks=pytest.mark.slow if case.slow else []) for case in CASES
]


def output(net: nn.Module, x: Tensor) -> Tensor:
    result = net(x)
    return result["out"] if isinstance(result, dict) else result


@pytest.mark.parametrize("case", NETWORKS)
def test_network(case: Case) -> None:
    torch.manual_seed(0)
    plain, x = case.build(), case.input()
    with_crossnorm = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", position=case.position))
    assert crossnorm_sites(with_crossnorm)
    assert list(with_crossnorm.state_dict()) == list(plain.state_dict())
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cnsn", position=case.position))
    with torch.no_grad():
        # What is drawn, such as stochastic depth, is drawn as before.
        for training in (False, True):
            results = []
            for other in (plain, with_crossnorm):
                torch.manual_seed(1)
                results.append(output(other.train(training), x))
            assert torch.equal(*results)
    trains_a_step(net, x, set(plain.state_dict()))
    copies_are_equal(
        net.eval(), x, insert(case.build(), CNSNSpec(kind="cnsn", position=case.position))
    )


def trains_a_step(net: nn.Module, x: Tensor, keys: set[str]) -> None:
    assert keys < set(net.state_dict())
    inserted = {name: p for name, p in net.named_parameters() if name not in keys}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with crossnorm_active(net.train(), k=len(crossnorm_sites(net))):
        output(net, x).square().mean().backward()
    for name, parameter in inserted.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    before = {name: p.detach().clone() for name, p in inserted.items()}
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    assert any(not torch.equal(before[name], p) for name, p in inserted.items())


def copies_are_equal(net: nn.Module, x: Tensor, fresh: nn.Module) -> None:
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = output(net, x)
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh.eval()):
            assert torch.equal(output(twin, x), expected)
