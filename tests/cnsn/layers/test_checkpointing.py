"""Activation checkpointing: gradients are those without it, wherever backward stands."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnsn import CrossNorm, SelfNorm, crossnorm_active

Run = Callable[[Callable[..., Tensor], Tensor], Tensor]


def plain(part: Callable[..., Tensor], x: Tensor) -> Tensor:
    return part(x)


def reentrant(part: Callable[..., Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=True)


def other(part: Callable[..., Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=False)


class Recomputed(torch.autograd.Function):
    """As other libraries write it."""

    @staticmethod
    def forward(ctx: Any, part: Callable[..., Tensor], x: Tensor) -> Tensor:
        ctx.part = part
        ctx.save_for_backward(x)
        return part(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor | None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.part(x)
        y.backward(dy)
        return None, x.grad


RUNS: dict[str, Run] = {"reentrant": reentrant, "other": other, "own": Recomputed.apply}


class Block(nn.Module):
    """CrossNorm is called twice, and dropout takes the global generator's draws after it."""

    def __init__(self, inner: Run) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.crossnorm, self.selfnorm = CrossNorm(crop="both"), SelfNorm(4)
        self.dropout, self.inner = nn.Dropout(0.3), inner

    def part(self, x: Tensor) -> Tensor:
        return self.selfnorm(self.crossnorm(self.dropout(self.first(x).tanh())))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.crossnorm(self.second(self.inner(self.part, x)))).sigmoid()


class Net(nn.Module):
    def __init__(
        self, run: Run, inner: Run = plain, part: Callable[..., nn.Module] = Block
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([part(inner) for _ in range(2)])
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.run(block, x)
        return x.square().sum()


def gradients(net: nn.Module, own: bool, backward: str = "at once") -> list[Tensor]:
    """Of a clean forward and two under `crossnorm_active`; then what the generators would draw."""
    net.train()
    torch.manual_seed(1)
    xs = torch.randn(3, 5, 3, 8, 8).to(next(net.parameters()))
    generator = torch.Generator().manual_seed(4) if own else None
    torch.manual_seed(2)
    losses = [net(xs[0])]
    for x, k, rows in ((xs[1], 1, None), (xs[2], 2, slice(1, 4))):
        with crossnorm_active(net, k, generator, rows=rows):
            losses.append(net(x))

    def steps() -> None:
        # In the midst of another forward's context, that of nobody's generator.
        with crossnorm_active(net, 2, torch.Generator()):
            for loss in losses[::-1]:
                loss.backward(retain_graph=backward == "twice")
                if backward == "twice":
                    loss.backward()

    if backward == "thread":
        thread = threading.Thread(target=steps)
        thread.start()
        thread.join()
    else:
        steps()
    assert not any(site.active for site in net.modules() if isinstance(site, CrossNorm))
    drawn = [torch.rand(2), torch.rand(2, generator=generator)]
    return [p.grad for p in net.parameters() if p.grad is not None] + drawn


def without_dropout(net: Net) -> Net:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def check_equal(found: Net, own: bool, backward: str = "at once") -> None:
    dropout = all(m.p > 0 for m in found.modules() if isinstance(m, nn.Dropout))
    expected = gradients(Net(plain) if dropout else without_dropout(Net(plain)), own, backward)
    results = gradients(found, own, backward)
    assert len(results) == len(expected) == 2 + len(list(found.parameters()))
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
@pytest.mark.parametrize("run", ["reentrant", "other"])
def test_gradients_are_those_without_to_the_last_bit(run: str, own: bool) -> None:
    check_equal(Net(RUNS[run]), own)
    check_equal(Net(RUNS[run]), own, "thread")


@pytest.mark.parametrize("inner", ["reentrant", "other"])
@pytest.mark.parametrize("run", ["reentrant", "other"])
def test_checkpoints_within_checkpoints(run: str, inner: str) -> None:
    check_equal(Net(RUNS[run], RUNS[inner]), own=False)
    check_equal(Net(RUNS[run], RUNS[inner]), own=True)


def test_backward_twice() -> None:
    check_equal(Net(reentrant), False, "twice")
    check_equal(Net(other), True, "twice")


@pytest.mark.parametrize("own", [False, True], ids=["global", "own generator"])
def test_checkpoints_that_leave_the_global_generator_alone(own: bool) -> None:
    def forgetful(part: Callable[..., Tensor], x: Tensor) -> Tensor:
        return checkpoint(part, x, use_reentrant=False, preserve_rng_state=False)

    check_equal(without_dropout(Net(Recomputed.apply)), own)
    check_equal(without_dropout(Net(forgetful)), own)


def test_draws_leave_with_the_graph() -> None:
    net = Net(other).train()
    for run in (reentrant, other):
        net.run = run
        partner = torch.tensor([1, 2, 0])
        gone = weakref.ref(partner)
        with crossnorm_active(net, 2, partner=partner):
            loss = net(torch.randn(3, 3, 8, 8))
        del partner
        gc.collect()
        assert gone() is not None
        loss.backward()
        del loss
        gc.collect()
        assert gone() is None


def test_a_forward_that_was_not_seen_is_refused() -> None:
    layer, x = CrossNorm().train(), torch.randn(4, 3, 5, 5, requires_grad=True)
    y = x * 2
    y.register_hook(lambda dy: layer(dy))
    with pytest.raises(RuntimeError, match="CrossNorm to be called in a forward or in its recomp"):
        y.sum().backward()
    layer.eval()
    (x * 2).sum().backward()


def test_running_statistics_move_as_those_of_a_batch_norm() -> None:
    block = nn.Sequential(nn.BatchNorm2d(3), SelfNorm(3)).train()
    other(block, torch.randn(4, 3, 5, 5, requires_grad=True)).sum().backward()
    assert block[1].g_bn.num_batches_tracked == block[0].num_batches_tracked == 2


class Single(nn.Module):
    """CrossNorm is called once."""

    def __init__(self, inner: Run, calls: int = 1) -> None:
        super().__init__()
        self.conv, self.crossnorm = nn.Conv2d(4, 4, 3, padding=1), CrossNorm(crop="both")
        self.inner, self.calls = inner, calls

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.calls):
            x = self.crossnorm(self.conv(x)).tanh()
        return x


@pytest.mark.parametrize("where", ["checkpoint in graph", "graph in checkpoint"])
def test_compiled(where: str) -> None:
    torch._dynamo.reset()
    expected = gradients(Net(plain, part=Single).double(), own=True)
    net = Net(other, part=Single).double()
    if where == "checkpoint in graph":
        net.compile(backend="aot_eager", fullgraph=True)
    else:
        for block in net.blocks:
            block.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(net, own=True), expected)


def test_compiled_with_two_calls_in_a_graph_that_is_recomputed_is_refused() -> None:
    """Its backward recomputes in an order of its own."""
    torch._dynamo.reset()
    net = Net(other, part=lambda inner: Single(inner, calls=2)).train()
    net.compile(backend="aot_eager", fullgraph=True)
    with crossnorm_active(net, 1):
        loss = net(torch.randn(4, 3, 8, 8))
    with pytest.raises(RuntimeError, match="whose forward is not known"):
        loss.backward()
