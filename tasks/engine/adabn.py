"""Batch-norm statistics re-estimated on unlabelled data of a shifted domain (AdaBN).

    mean_c = mean of channel c over all samples and positions, var_c likewise (unbiased)

for every batch norm of the network, in place of the running averages of training. Weights stay.
Source: Li et al. 2016, "Revisiting Batch Normalization For Practical Domain Adaptation",
https://arxiv.org/abs/1603.04779; on corruptions: Schneider et al. 2020,
https://arxiv.org/abs/2006.16971

What a layer sees depends on how the layers before it normalise. The first pass over the data
normalises each batch by its own statistics, as training does; a further pass normalises by the
statistics that the pass before found on all the data. So after p passes the first p layers in a
row have exactly the statistics of the whole data, whatever the batches; one pass is the usual
approximation, and needs batches that are each a fair sample of the data: shuffle them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnsn import SelfNorm

__all__ = ["kept_batch_norm", "reestimate_batch_norm"]


def reestimate_batch_norm(
    net: nn.Module, batches: Iterable[Tensor], *, passes: int = 1, selfnorm: bool = True
) -> None:
    """Give every batch norm of `net` the statistics of its input over all of `batches`.

    Processes that evaluate together may call it on disjoint shares of the data: statistics are
    pooled over all of them, and all get the same. Samples count alike, whatever batch they are in.
    Nothing else changes; dropout and CrossNorm do not act meanwhile.

    Args:
        net: any network with batch norms that keep running statistics.
        batches: inputs of `net`, on its device; each of at least 2 samples. For more than one pass
            something that can be iterated over again, not an iterator.
        passes: see the module's docstring.
        selfnorm: also re-estimate the batch norms inside SelfNorm. They normalise a score of the
            maps' statistics, which the other re-estimates change: kept as trained, they would judge
            new features by the old ones' standard.

    Raises:
        ValueError: no batch norm, no data, a batch of one sample, an iterator for several passes.
    """
    norms = _batch_norms(net, selfnorm)
    if not norms:
        raise ValueError(
            f"Expected `net` to have batch norms with running statistics, but {type(net).__name__} "
            "has none: AdaBN cannot change it."
        )
    if passes < 1:
        raise ValueError(f"Expected `passes` to be at least 1, but got {passes}.")
    if passes > 1 and iter(batches) is batches:
        raise ValueError(
            f"Expected `batches` to be iterable again for {passes} passes, but got an iterator: "
            "give a list or a data loader."
        )
    training = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        for number in range(passes):
            _one_pass(net, norms, batches, own_statistics=number == 0)
    finally:
        for module, mode in training:
            module.training = mode


@contextmanager
def kept_batch_norm(net: nn.Module) -> Iterator[None]:
    """Within the context statistics may change; at its end they are again what they were."""
    norms = _batch_norms(net, selfnorm=True)
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in _running(norm)]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


class _Statistics:
    """Count, mean and sum of squared deviations of each channel, merged batch by batch.

    Merging is that of Chan, Golub & LeVeque 1979: exact where sums of squares would cancel.
    """

    def __init__(self, running_mean: Tensor) -> None:
        self.mean = torch.zeros_like(running_mean, dtype=torch.float64)
        self.count = torch.zeros_like(self.mean[0])
        self.squares = torch.zeros_like(self.mean)

    def merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share = count / total.clamp(min=1)
        delta = mean - self.mean
        self.squares += squares + delta.square() * self.count * share
        self.mean += delta * share
        self.count = total

    def add(self, x: Tensor) -> None:
        """Add an input (B, C, ...) of a batch norm."""
        values = x.detach().float().transpose(0, 1).flatten(1)
        count = torch.tensor(values.shape[1], dtype=torch.float64, device=x.device)
        var, mean = torch.var_mean(values, dim=1, correction=0)
        self.merge(count, mean.double(), var.double() * count)

    def gather(self) -> None:
        """Pool over the processes; all get the same numbers."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        own = torch.cat([self.count[None], self.mean, self.squares])
        parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, own)
        self.count, self.mean, self.squares = (
            torch.zeros_like(value) for value in (self.count, self.mean, self.squares)
        )
        for part in parts:
            self.merge(part[0], *part[1:].chunk(2))


def _batch_norms(net: nn.Module, selfnorm: bool) -> list[_BatchNorm]:
    gates = {id(norm) for m in net.modules() if isinstance(m, SelfNorm) for norm in m.modules()}
    return [
        module
        for module in net.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and (selfnorm or id(module) not in gates)
    ]


def _running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


@torch.no_grad()
def _one_pass(
    net: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor], *, own_statistics: bool
) -> None:
    buffers = [_running(norm) for norm in norms]
    found = [_Statistics(mean) for mean, _ in buffers]
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs, s=statistics: s.add(inputs[0]))
        for norm, statistics in zip(norms, found, strict=True)
    ]
    try:
        if own_statistics:
            # In eval mode a batch norm without running statistics takes the batch's own.
            for norm in norms:
                norm.running_mean = norm.running_var = None
        # Compiled code would not see the hooks.
        with torch.compiler.set_stance("force_eager"):
            for batch in batches:
                if len(batch) < 2:
                    raise ValueError(
                        f"Expected batches of at least 2 samples, but got {len(batch)}: one sample "
                        "has no batch statistics. Choose a batch size that leaves no rest of one."
                    )
                net(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for norm, (mean, var) in zip(norms, buffers, strict=True):
            norm.running_mean, norm.running_var = mean, var
    for statistics in found:
        statistics.gather()
    if not any(statistics.count > 0 for statistics in found):
        raise ValueError("Expected `batches` to hold at least one batch, but got none.")
    for (mean, var), statistics in zip(buffers, found, strict=True):
        if statistics.count > 1:  # A layer that the forward does not use keeps what it has.
            mean.copy_(statistics.mean)
            var.copy_(statistics.squares / (statistics.count - 1))
