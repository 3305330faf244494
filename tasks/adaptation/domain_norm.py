"""Batch normalisation that keeps two domains of one batch apart.

Source and target images that go through the network together, so that one can lend the other its
style, would share batch statistics. Within :func:`two_domains` every batch norm normalises each
domain by itself; weights are shared. The source's part is the ordinary batch norm, running averages
included. The target's part is, by choice,

    "source"   normalised by the source's running averages, as a test without adaptation does
    "batch"    normalised by its own batch, which leaves no trace
    "kept"     the same, with running averages of its own (Chang et al. 2019, arXiv 1906.03950)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Target", "part_domains", "two_domains"]

Target = Literal["source", "batch", "kept"]


class _PartedNorm(_BatchNorm):
    """Mixin. Attributes:

    sources: how many samples at the front of the batch are of the source; None: all of them.
    target: see the module's docstring.
    target_mean, target_var: running averages of the target; only where they are kept.
    """

    sources: int | None = None
    target: Target = "batch"

    def forward(self, x: Tensor) -> Tensor:
        if self.sources is None:
            return super().forward(x)
        if self.sources == 0:
            return self._target(x)
        source = super().forward(x[: self.sources])
        return torch.cat([source, self._target(x[self.sources :])])

    def _target(self, x: Tensor) -> Tensor:
        by_source = self.target == "source"
        names = ("running_mean", "running_var") if by_source else ("target_mean", "target_var")
        mean, var = (self._buffers.get(name) for name in names)
        own_batch = mean is None or (self.training and not by_source)
        momentum = 0.1 if self.momentum is None else self.momentum
        x = F.batch_norm(x, mean, var, self.weight, self.bias, own_batch, momentum, self.eps)
        return self._after(x)

    def _after(self, x: Tensor) -> Tensor:
        """What the batch norm does beside normalising."""
        return x


class _PartedNorm1d(_PartedNorm, nn.BatchNorm1d):
    pass


class _PartedNorm2d(_PartedNorm, nn.BatchNorm2d):
    pass


PARTED: dict[type[nn.Module], type[_PartedNorm]] = {
    nn.BatchNorm1d: _PartedNorm1d,
    nn.BatchNorm2d: _PartedNorm2d,
}


def _parted(norm: nn.Module) -> type[_PartedNorm] | None:
    """The class of a batch norm that keeps two domains apart; None where there is none."""
    kind = type(norm)
    if kind not in PARTED and kind.__module__.startswith("timm."):
        from timm.layers import BatchNormAct2d

        class PartedNormAct2d(_PartedNorm, BatchNormAct2d):
            def _after(self, x: Tensor) -> Tensor:
                return self.act(self.drop(x))

        PARTED.setdefault(BatchNormAct2d, PartedNormAct2d)
    return PARTED.get(kind)


def part_domains(net: nn.Module, target: Target) -> None:
    """Make every batch norm of `net` fit for :func:`two_domains`, in place.

    Keys in checkpoints stay as they are; "kept" adds ``target_mean`` and ``target_var`` to each,
    which start as copies of the source's.

    Args:
        net: any network.
        target: how the target's part is normalised; see the module's docstring.

    Raises:
        ValueError: no batch norm, or one of another class.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    other = sorted({type(norm).__name__ for norm in norms if _parted(norm) is None})
    if other or not norms:
        raise ValueError(
            f"Expected the batch norms of {type(net).__name__} to be BatchNorm1d, BatchNorm2d "
            f"or timm's BatchNormAct2d, "
            f"but got {', '.join(other) or 'none'}: they cannot keep two domains apart."
        )
    for norm in norms:
        kind = _parted(norm)
        assert kind is not None
        norm.__class__ = kind
        assert isinstance(norm, _PartedNorm)
        norm.target = target
        if target == "kept" and norm.running_mean is not None and norm.running_var is not None:
            norm.register_buffer("target_mean", norm.running_mean.clone())
            norm.register_buffer("target_var", norm.running_var.clone())


@contextmanager
def two_domains(net: nn.Module, sources: int) -> Iterator[None]:
    """Within it, the first `sources` samples of a batch are the source's, the others the target's.

    Raises:
        ValueError: `net` has batch norms that :func:`part_domains` did not see, such as those that
            synchronisation over processes puts in their place.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    parted = [norm for norm in norms if isinstance(norm, _PartedNorm)]
    if len(parted) < len(norms) or not norms:
        raise ValueError(
            "Expected every batch norm to keep two domains apart, but "
            f"{len(norms) - len(parted)} of {len(norms)} cannot: set `trainer.sync_batchnorm` to "
            "false, or `model.batch_norm` to mixed."
        )
    try:
        for norm in parted:
            norm.sources = sources
        yield
    finally:
        for norm in parted:
            norm.sources = None
