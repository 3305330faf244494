from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, insert
from cnsn.nets import wide_resnet
from tasks.engine.adabn import _Statistics, kept_batch_norm, reestimate_batch_norm


def data(n: int = 25) -> Tensor:
    """Samples that differ in scale and level, so that batches' statistics differ."""
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    return x * (0.5 + 3 * steps) + 3 * steps - 1


def chain() -> nn.Sequential:
    """Two batch norms in a row, with dropout, which must not act."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4),
    )
    nn.init.uniform_(net[1].weight, 0.5, 2.0)
    nn.init.uniform_(net[1].bias, -1.0, 1.0)
    return net


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.double().transpose(0, 1).flatten(1)
    return flat.mean(1).float(), flat.var(1).float()


@torch.no_grad()
def by_hand(net: nn.Sequential, x: Tensor, correction: int) -> list[tuple[Tensor, Tensor]]:
    """Statistics of all the data, layer after layer, each normalised by those before it."""
    x = net[0](x)
    first = moments(x)
    dims = (0, 2, 3)
    var = x.var(dims, correction=correction, keepdim=True)
    x = (x - x.mean(dims, keepdim=True)) / (var + net[1].eps).sqrt()
    x = x * net[1].weight.view(1, -1, 1, 1) + net[1].bias.view(1, -1, 1, 1)
    return [first, moments(net[4](x.relu()))]


def check(norm: Any, expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(norm.running_mean, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, expected[1], rtol=1e-4, atol=1e-5)


def test_one_batch_of_all_data_gives_its_statistics() -> None:
    net = chain()
    reestimate_batch_norm(net, [data()])
    # A batch normalised by its own statistics takes the variance without correction.
    first, second = by_hand(net, data(), correction=0)
    check(net[1], first)
    check(net[5], second)


def test_passes_make_layers_exact_one_after_the_other() -> None:
    batches = data().split([9, 2, 7, 7])
    net = chain()
    first, second = by_hand(net, data(), correction=1)
    reestimate_batch_norm(net, batches)
    check(net[1], first)
    assert (net[5].running_var - second[1]).abs().max() > 1e-2
    reestimate_batch_norm(net, batches, passes=2)
    check(net[1], first)
    check(net[5], second)


def test_only_statistics_change_and_come_back() -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn"))
    net.train()
    net.block1.eval()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    with kept_batch_norm(net):
        reestimate_batch_norm(net, data().split(6)[:4], passes=2)
        changed = {key for key, value in net.state_dict().items() if not value.equal(before[key])}
    wanted = {key for key in before if key.endswith(("running_mean", "running_var"))}
    assert changed == wanted and any("g_bn" in key for key in changed)
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_pre_hooks for module in net.modules())
    for key, value in net.state_dict().items():
        assert value.equal(before[key]), key


def test_selfnorm_may_stay_as_trained() -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="sn"))
    before = copy.deepcopy(net.state_dict())
    reestimate_batch_norm(net, [data()], selfnorm=False)
    for key, value in net.state_dict().items():
        if "running" in key:
            assert value.equal(before[key]) == ("g_bn" in key), key


def test_statistics_come_back_after_an_error() -> None:
    net = chain()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="at least 2 samples, but got 1"), kept_batch_norm(net):
        reestimate_batch_norm(net, data().split([24, 1]))
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())
    assert net[1].training and not net[1]._forward_pre_hooks


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has none"):
        reestimate_batch_norm(nn.Linear(2, 2), [data()])
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate_batch_norm(chain(), [])
    with pytest.raises(ValueError, match="got an iterator"):
        reestimate_batch_norm(chain(), iter([data()]), passes=2)
    with pytest.raises(ValueError, match="`passes`"):
        reestimate_batch_norm(chain(), [data()], passes=0)


def test_compiled_networks_are_re_estimated_too() -> None:
    net, plain = chain(), chain()
    net.compile(backend="eager")
    with torch.no_grad():
        net.eval()(data())
    reestimate_batch_norm(net, [data()])
    reestimate_batch_norm(plain, [data()])
    torch.testing.assert_close(net.state_dict(), plain.state_dict())


def test_shares_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three processes, one without data."""
    x = data()
    shares = []
    for part in (x[:9], x[9:9], x[9:]):
        statistics = _Statistics(torch.zeros(3))
        for batch in part.split(5):
            if len(batch):
                statistics.add(batch)
        shares.append(statistics)
    sent = [torch.cat([s.count[None], s.mean, s.squares]) for s in shares]

    def all_gather(parts: list[Tensor], own: Tensor) -> None:
        for part, value in zip(parts, sent, strict=True):
            part.copy_(value)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    for statistics in shares:
        statistics.gather()
        mean, var = moments(x)
        assert statistics.count == x[:, 0].numel()
        torch.testing.assert_close(statistics.mean.float(), mean)
        var_found = statistics.squares / (statistics.count - 1)
        torch.testing.assert_close(var_found.float(), var)


SHARE = """
import sys, torch
from tasks.engine.adabn import reestimate_batch_norm
from tests.tasks.engine.test_adabn import chain, data

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
net = chain()
reestimate_batch_norm(net, data().split([9, 16])[rank].split(8 if rank else 9), passes=2)
torch.save(net.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_processes_pool_their_shares(tmp_path: Path, root: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, str(rank), str(tmp_path)], cwd=root, env=environment
        )
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    alone = chain()
    reestimate_batch_norm(alone, data().split([9, 8, 8]), passes=2)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(together, dict(alone.state_dict()))
