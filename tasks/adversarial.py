"""Adversarial training: each batch's images are replaced by attacked ones.

Source: Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083. The attack sees the network as in
evaluation, so that it leaves batch norm's running statistics alone, as in the released code of
TRADES, https://github.com/yaodongyu/TRADES
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from data.images import by_channel, standardise
from tasks.attacks import AttackSpec, attacked

__all__ = ["adversarial_images"]


def adversarial_images(
    network: nn.Module, batch: dict[str, Any], spec: AttackSpec, *, data: Any, seed: int
) -> Tensor:
    """PGD on a training batch.

    Args:
        network: a classifier of normalised images; it gets its modes back.
        batch: {"image": normalised (B, 3, H, W), "label", "index"}.
        spec: the attack's sizes.
        data: the data module, whose `mean` and `std` normalised the images.
        seed: of run and epoch; with "index" it decides where the attack starts.

    Returns:
        Like the images, normalised.
    """
    images = batch["image"]
    mean, std = by_channel(data.mean, images.device), by_channel(data.std, images.device)
    with _evaluating(network):
        pixels = attacked(
            lambda pixels: network(standardise(pixels, data.mean, data.std)),
            (images * std + mean).clamp(0, 1),
            batch["label"],
            "pgd",
            spec,
            index=batch["index"],
            seed=seed,
        )
    return standardise(pixels, data.mean, data.std)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
