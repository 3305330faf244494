"""How far corruption moves the statistics of each layer, and what SelfNorm's gates make of them.

For a statistic s (mean or standard deviation) of channel c and image n at a layer,

    distance = sum_c mean_n |s_corrupted - s_clean| / sum_c std_n(s_clean)

so that 1 means: corruption moves it as far as clean images differ among each other. It does not
change with the scale of a layer, nor with channels that are always zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from cnsn import SelfNorm
from cnsn.functional import instance_stats
from tasks.visualize.trained import Trained

__all__ = ["Distances", "Statistics", "distance", "gates", "gates_of", "statistics_of"]


class Statistics(NamedTuple):
    """Means and standard deviations (N, C) of images' channels at a site, before and after it."""

    before: tuple[Tensor, Tensor]
    after: tuple[Tensor, Tensor]


@contextmanager
def watched(trained: Trained) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Within it, a forward leaves each site's input and output in the dictionary."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for name, module in trained.sites.items():

        def keep(_: object, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            seen[name] = (inputs[0], output)

        handles.append(module.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def statistics_of(trained: Trained, images: Tensor, batch: int = 100) -> dict[str, Statistics]:
    """Of uint8 images (N, 3, H, W), by site."""
    parts: dict[str, list[list[Tensor]]] = {}
    with watched(trained) as seen:
        for some in images.split(batch):
            trained.module(trained.inputs(some))
            for name, (before, after) in seen.items():
                own = [*instance_stats(before), *instance_stats(after)]
                parts.setdefault(name, []).append([s.flatten(1) for s in own])
    found = {}
    for name, lists in parts.items():
        mean, std, mean_after, std_after = map(torch.cat, zip(*lists, strict=True))
        found[name] = Statistics((mean, std), (mean_after, std_after))
    return found


def distance(clean: Tensor, corrupted: Tensor) -> float:
    """See the module's docstring; of one statistic (N, C) of the same images."""
    spread = clean.std(0).sum()
    return ((corrupted - clean).abs().mean(0).sum() / spread.clamp(min=1e-12)).item()


class Distances(NamedTuple):
    """By site: of means and of standard deviations, before and after the site's layers."""

    before: list[tuple[float, float]]
    after: list[tuple[float, float]]


def distances_of(clean: Mapping[str, Statistics], corrupted: Mapping[str, Statistics]) -> Distances:
    """Between clean and corrupted images, in the order of the sites."""

    def pair(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
        return distance(one[0], other[0]), distance(one[1], other[1])

    names = list(clean)
    return Distances(
        [pair(clean[n].before, corrupted[n].before) for n in names],
        [pair(clean[n].after, corrupted[n].after) for n in names],
    )


def gates(layer: SelfNorm, mean: Tensor, std: Tensor) -> Tensor:
    """SelfNorm's gate g (N, C) for channels with these statistics (N, C), in evaluation mode."""
    weight = layer.g_fc.weight
    score = mean * weight[:, 0, 0] + std * weight[:, 0, 1]
    return torch.sigmoid(layer.g_bn(score))


@torch.no_grad()
def gates_of(trained: Trained, images: Tensor, batch: int = 100) -> dict[str, Tensor]:
    """The gates (N, C) of uint8 images at each SelfNorm, by site."""
    found = {name: site.selfnorm for name, site in trained.sites.items()}
    layers = {name: layer for name, layer in found.items() if isinstance(layer, SelfNorm)}
    parts: dict[str, list[Tensor]] = {}
    with watched(trained) as seen:
        for some in images.split(batch):
            trained.module(trained.inputs(some))
            for name, layer in layers.items():
                mean, std = (s.flatten(1) for s in instance_stats(seen[name][0], layer.eps))
                parts.setdefault(name, []).append(gates(layer, mean, std))
    return {name: torch.cat(own) for name, own in parts.items()}
