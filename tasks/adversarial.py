"""Adversarial training: each batch's images are replaced by attacked ones.

Source: Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from data.randomness import sample_uniform
from tasks.attacks import AttackSpec, attack

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
    uniform = None
    if spec.random_start:
        draws = images[0].numel()
        uniform = sample_uniform(seed, batch["index"], draws).view_as(images)
    return attack(
        network, images, batch["label"], spec, mean=data.mean, std=data.std, uniform=uniform
    )
