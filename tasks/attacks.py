"""Adversarial images: the loss is raised by changing every pixel by at most eps.

    FGSM   x' = clip(x + eps * sign(grad_x CE(x, y)))
    PGD    x_0 = clip(x + uniform in [-eps, eps]),
           x_(t+1) = clip(project(x_t + step * sign(grad_x CE(x_t, y)))),  |x_t - x| <= eps

Pixels are in [0, 1], before normalisation. Sources: Goodfellow et al. 2015,
https://arxiv.org/abs/1412.6572; Madry et al. 2018, https://arxiv.org/abs/1706.06083
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data.randomness import derive_seed, sample_uniform

__all__ = ["Attack", "AttackSpec", "attacked", "fgsm", "pgd", "random_start"]

Attack = Literal["fgsm", "pgd"]
# Logits (B, classes) of pixels (B, 3, H, W) in [0, 1].
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttackSpec:
    """Sizes of an attack, in the 255 levels of a pixel.

    Args:
        eps: largest change of a pixel, in L-infinity.
        step: of PGD.
        steps: of PGD.
        random_start: start PGD at a random point within `eps`, a function of seed and image.
    """

    eps: float = 8.0
    step: float = 2.0
    steps: int = 10
    random_start: bool = True

    def __post_init__(self) -> None:
        for name in ("eps", "step"):
            if not 0 < getattr(self, name) <= 255:
                raise ValueError(
                    f"Expected `{name}` to be in (0, 255], levels of a pixel, but got "
                    f"{getattr(self, name)}."
                )
        if self.steps < 1:
            raise ValueError(f"Expected `steps` to be at least 1, but got {self.steps}.")


def attacked(
    logits_of: Logits,
    pixels: Tensor,
    label: Tensor,
    attack: Attack,
    spec: AttackSpec,
    *,
    index: Tensor,
    seed: int,
) -> Tensor:
    """Adversarial versions of `pixels`.

    Args:
        logits_of: the network, with the normalisation of its input.
        pixels: float32 (B, 3, H, W) in [0, 1].
        label: int64 (B,), the true classes.
        attack: "fgsm" or "pgd".
        spec: its sizes.
        index: int64 (B,) of the images; with `seed` it decides where PGD starts.
        seed: of the run.
    """
    eps = spec.eps / 255
    if attack == "fgsm":
        return fgsm(logits_of, pixels, label, eps=eps)
    start = None
    if spec.random_start:
        start = random_start(pixels, index, seed=derive_seed(seed, "attack"), eps=eps)
    return pgd(
        logits_of, pixels, label, eps=eps, step=spec.step / 255, steps=spec.steps, start=start
    )


def fgsm(logits_of: Logits, pixels: Tensor, label: Tensor, *, eps: float) -> Tensor:
    """One step of size `eps` up the loss's slope."""
    return (pixels + eps * _slope(logits_of, pixels, label)).clamp(0, 1)


def pgd(
    logits_of: Logits,
    pixels: Tensor,
    label: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
) -> Tensor:
    """`steps` steps of size `step`, each brought back to within `eps` of `pixels`.

    Args:
        logits_of: see :func:`attacked`, also for the next two.
        pixels: the images.
        label: the true classes.
        eps, step: in units of the whole range of a pixel.
        steps: how many.
        start: within `eps` of `pixels`; None starts there.
    """
    low, high = (pixels - eps).clamp(min=0), (pixels + eps).clamp(max=1)
    x = pixels if start is None else start
    for _ in range(steps):
        x = (x + step * _slope(logits_of, x, label)).clamp(low, high)
    return x


def random_start(pixels: Tensor, index: Tensor, *, seed: int, eps: float) -> Tensor:
    """Each pixel moved by a uniform number in [-eps, eps), within [0, 1]."""
    draws = pixels[0].numel()
    uniform = sample_uniform(seed, index.to(pixels.device), draws).view_as(pixels)
    return (pixels + eps * (2 * uniform - 1)).clamp(0, 1)


def _slope(logits_of: Logits, pixels: Tensor, label: Tensor) -> Tensor:
    """Sign of the loss's gradient; the images of a batch do not influence one another's."""
    with torch.enable_grad():
        x = pixels.detach().requires_grad_()
        loss = F.cross_entropy(logits_of(x).float(), label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.sign()
