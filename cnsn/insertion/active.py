"""Switch CrossNorm on for a forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from cnsn.layers import Restyling

__all__ = ["coins", "crossnorm_active", "crossnorm_sites"]


def crossnorm_sites(net: nn.Module) -> list[Restyling]:
    """The modules of `net` that :func:`crossnorm_active` switches on, in order of registration.

    net = insert(torchvision.models.resnet18(), CNSNSpec(kind="cnsn"))
    sites = crossnorm_sites(net)
    print(len(sites))  # 8
    for site in sites[:2]:
        site.active = True  # By hand, for as long as you like.
    """
    return [module for module in net.modules() if isinstance(module, Restyling)]


@contextmanager
def crossnorm_active(
    net: nn.Module,
    k: int | Literal["all"] = 1,
    generator: torch.Generator | None = None,
    *,
    draws: torch.Generator | None = None,
    partner: Tensor | None = None,
    rows: slice | None = None,
    strict: bool = True,
    p: float | None = None,
) -> Iterator[list[Restyling]]:
    """Within the context, `k` randomly chosen CrossNorm sites of `net` are active.

    A copy of `net` made within the context (deepcopy, pickle, an average of weights) is inactive.

    Args:
        net: a network with CrossNorm inserted; CrossNorm acts only while it is training.
        k: how many of the n sites, from 0 to n, or "all".
        generator: CPU generator of the choice; None means torch's global one.
        draws: CPU generator of permutations and boxes; None means `generator`. Processes that
            train together choose the same sites but draw differently.
        partner: see :class:`cnsn.CrossNorm`.
        rows: see :class:`cnsn.CrossNorm`; None means the whole batch.
        strict: False lets any `k` pass where `net` has no site at all, and does nothing there, so
            that baseline and method share one training loop.
        p: each site tosses its own coin, which shows heads with this probability; `k` is then not
            used. None chooses `k` sites.

    Yields:
        The active sites. Everything is restored at the end, also after an exception.

    Raises:
        ValueError: if `k` is negative or larger than the number of sites, or `p` no probability.
    """
    sites = crossnorm_sites(net)
    if p is None:
        count = _count(k, len(sites), strict)
        order = torch.randperm(len(sites), generator=generator, device="cpu")
        chosen = [sites[i] for i in order[:count].tolist()]
    else:
        heads = coins(len(sites), p, generator)
        chosen = [site for site, heads_up in zip(sites, heads, strict=True) if heads_up]
    before = [(site.active, site.generator, site.partner, site.rows) for site in chosen]
    try:
        for site in chosen:
            site.active = True
            site.generator = generator if draws is None else draws
            site.partner = partner
            site.rows = rows
        yield chosen
    finally:
        for site, state in zip(chosen, before, strict=True):
            site.active, site.generator, site.partner, site.rows = state


def coins(n: int, p: float, generator: torch.Generator | None) -> list[bool]:
    """`n` coins that show heads with probability `p`."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"Expected `p` to be in [0, 1], but got {p}.")
    drawn: list[bool] = (torch.rand(n, generator=generator, device="cpu") < p).tolist()
    return drawn


def _count(k: int | str, sites: int, strict: bool) -> int:
    if isinstance(k, str):
        if k != "all":
            raise ValueError(f"Expected `k` to be a number or 'all', but got {k!r}.")
        if sites or not strict:
            return sites
    elif 0 <= k <= sites or (k > 0 and not sites and not strict):
        return min(k, sites)
    hint = "" if sites else "; strict=False lets a network without sites pass"
    raise ValueError(
        f"Expected `k` to be from 0 to {sites}, the number of CrossNorm sites, but got {k}{hint}."
    )
