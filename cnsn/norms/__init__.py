"""Other normalisations in place of a network's batch norms: partners of the layers, and rivals."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from cnsn.insertion.blocks import sites_of
from cnsn.nets.resnet import IBN
from cnsn.norms.attentive import AttentiveNorm
from cnsn.norms.switchable import SwitchableNorm

__all__ = ["NORMS", "AttentiveNorm", "NormsSpec", "SwitchableNorm", "check_norms", "replace_norms"]

Net = TypeVar("Net", bound=nn.Module)


def _half_by_instance(norm: nn.BatchNorm2d) -> IBN:
    made = IBN(norm.num_features)
    first, rest = slice(made.split), slice(made.split, None)
    for part, rows in ((made.IN, first), (made.BN, rest)):
        for name in ("weight", "bias"):
            getattr(part, name).data.copy_(getattr(norm, name)[rows])
    for name in ("running_mean", "running_var"):
        getattr(made.BN, name).copy_(getattr(norm, name)[rest])
    made.BN.eps, made.BN.momentum = norm.eps, norm.momentum
    return made


@dataclass(frozen=True)
class Norm:
    """A row of the table.

    Args:
        build: makes it of a batch norm, with that one's parameters and running statistics.
        where: which batch norms it replaces if nobody says: every one, the last of each residual
            block, or the first of each block but those of the last stage.
        fresh: what has learnt nothing yet.
    """

    build: Callable[[nn.BatchNorm2d], nn.Module]
    where: str
    fresh: str


NORMS: dict[str, Norm] = {
    "switchable": Norm(SwitchableNorm.of, "every", "the weights of the three normalisers"),
    "attentive": Norm(AttentiveNorm.of, "last", "the attention, and the components' differences"),
    "ibn_a": Norm(_half_by_instance, "first", "nothing, but half of the statistics are not used"),
}


@dataclass(frozen=True)
class NormsSpec:
    """Which normalisation takes the place of batch norms.

    Args:
        kind: of :data:`cnsn.norms.NORMS`, or none.
        where: a regular expression for names of the network's batch norms; None is the place that
            the kind's paper has.
    """

    kind: str = "none"
    where: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "none":
            check_norms(self.kind)
        elif self.where is not None:
            raise ValueError(
                f"Expected `where` to be left out with `kind` none, but got {self.where!r}."
            )


def check_norms(kind: str) -> None:
    """Raise ValueError for an unknown kind."""
    if kind not in NORMS:
        raise ValueError(f"Expected `kind` to be one of {tuple(NORMS)}, but got {kind!r}.")


def replace_norms(net: Net, kind: str, where: str | None = None) -> Net:
    """Put other normalisations in the place of BatchNorm2d, in place, and return `net`.

    Args:
        net: any network, before :func:`cnsn.insert`; exactly of that type are those replaced.
        kind: "switchable" (Luo et al.), "attentive" (Li et al.) or "ibn_a" (Pan et al.).
        where: a regular expression, searched in the names of the batch norms; None is the place of
            the kind's paper.

    Their parameters and running statistics carry over.

    Raises:
        ValueError: an unknown kind, or no batch norm there. The network is then unchanged.
    """
    check_norms(kind)
    norms = {name: module for name, module in net.named_modules() if type(module) is nn.BatchNorm2d}
    found = [name for name in norms if where is not None and re.search(where, name)]
    if where is None:
        found = _usual(net, norms, NORMS[kind].where)
    found = [name for name in found if norms[name].affine and norms[name].track_running_stats]
    if not found:
        raise ValueError(
            f"Expected {type(net).__name__} to have BatchNorm2d with parameters "
            f"{'at the usual places' if where is None else f'at {where!r}'}, but there is none: "
            "name them by `where`."
        )
    made = {name: NORMS[kind].build(norms[name]) for name in found}
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        old = norms[name]
        setattr(net.get_submodule(parent), own, module.to(old.weight).train(old.training))
    return net


def _usual(net: nn.Module, norms: dict[str, Any], where: str) -> list[str]:
    if where == "every":
        return list(norms)
    stages: dict[str, list[str]] = {}
    for name, module in net.named_modules():
        own = [f"{name}.{n}" for n, m in module.named_children() if type(m) is nn.BatchNorm2d]
        if own and sites_of(net, module) is not None:
            # Those of the projection lie deeper.
            stages.setdefault(name.rpartition(".")[0], []).append(
                own[0 if where == "first" else -1]
            )
    chosen = list(stages.values())
    return [name for own in (chosen[:-1] if where == "first" else chosen) for name in own]
