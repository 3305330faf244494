"""Attacks on images (FGSM, PGD), and training against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.images import by_channel
from data.randomness import sample_uniform

__all__ = [
    "AttackSpec",
    "adversarial_images",
    "attack",
]


@dataclass(frozen=True)
class AttackSpec:
    """An attack; the defaults are those of adversarial training on CIFAR-10 (Madry et al.).

    Args:
        eps: radius, in 255ths of the pixels' range.
        step_size: likewise.
        steps: how many.
        random_start: start at a random point of the ball instead of the image.
    """

    eps: float = 8.0
    step_size: float = 2.0
    steps: int = 7
    random_start: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 255:
            raise ValueError(f"Expected `eps` to be in (0, 255], but got {self.eps}.")
        if not 0 < self.step_size <= 255:
            raise ValueError(f"Expected `step_size` to be in (0, 255], but got {self.step_size}.")
        if self.steps < 1:
            raise ValueError(f"Expected `steps` to be at least 1, but got {self.steps}.")


def attack(
    network: nn.Module,
    images: Tensor,
    label: Tensor,
    spec: AttackSpec,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    uniform: Tensor | None = None,
) -> Tensor:
    """Images that raise the network's loss; the network acts as in evaluation.

    So its running statistics stay as they are, in training too, as in the released code of TRADES
    (Zhang et al. 2019, https://github.com/yaodongyu/TRADES).

    Args:
        network: a classifier of normalised images; it gets its modes back.
        images: float (B, 3, H, W), normalised.
        label: int64 (B,), or probabilities (B, classes).
        spec: the attack.
        mean, std: of the normalisation, by channel.
        uniform: of the shape of `images`, in [0, 1): the random start. Needed where there is one.

    Returns:
        Of the shape of `images`, normalised, without a graph.
    """
    if spec.random_start and uniform is None:
        raise ValueError("Expected `uniform` to be given for a random start, but got None.")
    middle, scale = by_channel(mean, images.device), by_channel(std, images.device)
    radius, step = spec.eps / 255 / scale, spec.step_size / 255 / scale
    # Testing runs in inference mode, whose tensors no gradient can pass.
    with torch.inference_mode(False), torch.enable_grad(), _evaluating(network):
        images, label = images.detach().clone(), label.clone()
        low = torch.maximum(images - radius, -middle / scale)
        high = torch.minimum(images + radius, (1 - middle) / scale)
        x = images
        if spec.random_start:
            assert uniform is not None
            x = (images + radius * (2 * uniform - 1)).clamp(low, high)
        for _ in range(spec.steps):
            x = x.detach().requires_grad_()
            # A sum, so that a large batch does not make gradients vanish in half precision.
            loss = F.cross_entropy(network(x), label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x.detach() + step * gradient.sign()).clamp(low, high)
    return x.detach()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
