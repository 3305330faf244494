"""AugMix in batches: every image has chains, strengths and weights of its own.

    view = (1 - m) * image + m * sum_i w_i * chain_i(image),   w ~ Dirichlet(1), m ~ Beta(1, 1)

A chain is one to three operations, drawn with replacement from nine that do not overlap with the
corruptions of the test. Source: Hendrycks et al., "AugMix", ICLR 2020,
https://arxiv.org/abs/1912.02781; strengths as in https://github.com/google-research/augmix,
augmentations.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data.augmentations.operations import Operation, apply_operations
from data.randomness import sample_uniform

__all__ = ["POOL", "AugMixPlan", "augmix", "draw_plan", "mix_chains"]

RANDOM_DEPTHS = 3  # where no depth is given: from 1 to this


def _nothing(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return torch.zeros_like(level)


def _shear(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return sign * level * 0.3 / 10


def _translation(level: Tensor, sign: Tensor, width: int) -> Tensor:
    return sign * (level * (width / 3) / 10).floor()


# What Pillow's operation gets, from a level in (0, 10], a sign and the image's width.
POOL: dict[Operation, Callable[[Tensor, Tensor, int], Tensor]] = {
    "autocontrast": _nothing,
    "equalize": _nothing,
    "posterize": lambda level, sign, width: 4 - (level * 4 / 10).floor(),
    "rotate": lambda level, sign, width: sign * (level * 30 / 10).floor(),
    "solarize": lambda level, sign, width: 256 - (level * 256 / 10).floor(),
    "shear_x": _shear,
    "shear_y": _shear,
    "translate_x": _translation,
    "translate_y": _translation,
}


class AugMixPlan(NamedTuple):
    """What happens to each image.

    Attributes:
        operation: int64 (B, width, depth), places in `POOL`; -1 after the end of a chain.
        value: float32 (B, width, depth), what the operations get.
        weight: float32 (B, 1 + width) of the image itself and of its chains; sums to 1.
    """

    operation: Tensor
    value: Tensor
    weight: Tensor


def draw_plan(
    index: Tensor, *, seed: int, pixels: int, width: int, depth: int | None, severity: float
) -> AugMixPlan:
    """Draw a plan for the samples `index`; `pixels` is the width of the images."""
    most = depth or RANDOM_DEPTHS
    uniform = sample_uniform(seed, index, 1 + width * (2 + 3 * most))
    share, chains = uniform[:, :1], uniform[:, 1:].unflatten(1, (width, -1))
    # Exponential variates, normalised, are Dirichlet(1).
    parts = -torch.log1p(-chains[..., 0])
    weight = torch.cat([1 - share, share * parts / parts.sum(1, keepdim=True)], 1)
    length = 1 + (chains[..., 1:2] * most).long() if depth is None else most
    drawn, strength, side = chains[..., 2:].unflatten(2, (3, most)).unbind(2)
    operation = (drawn * len(POOL)).long()
    level, sign = 0.1 + (severity - 0.1) * strength, torch.where(side < 0.5, -1.0, 1.0)
    value = torch.stack([scale(level, sign, pixels) for scale in POOL.values()], -1)
    value = value.gather(-1, operation[..., None])[..., 0]
    ended = torch.arange(most, device=index.device) >= length
    return AugMixPlan(operation.masked_fill(ended, -1), value, weight)


def mix_chains(images: Tensor, plan: AugMixPlan) -> Tensor:
    """Run a plan on uint8 (B, 3, H, W); float32 of the same shape, from 0 to 255."""
    _, width, depth = plan.operation.shape
    chains = images.repeat_interleave(width, 0)
    for step in range(depth):
        operation, value = (part[:, :, step].flatten() for part in (plan.operation, plan.value))
        chains = apply_operations(chains, operation, value, tuple(POOL))
    weight = plan.weight[..., None, None, None]
    mixed = images * weight[:, 0]
    for number, chain in enumerate(chains.unflatten(0, (-1, width)).unbind(1), start=1):
        mixed.addcmul_(chain.float(), weight[:, number])
    return mixed


def augmix(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    width: int = 3,
    depth: int | None = None,
    severity: float = 3,
) -> Tensor:
    """One AugMix view of every image.

    Args:
        images: uint8 (B, 3, H, W) on any device.
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run, epoch and view.
        width: chains an image.
        depth: operations a chain; None draws 1, 2 or 3 for each.
        severity: the greatest strength, on a scale to 10.

    Returns:
        float32, of the shape and device of `images`, from 0 to 255, not rounded.
    """
    pixels = images.shape[-1]
    plan = draw_plan(
        index.to(images.device),
        seed=seed,
        pixels=pixels,
        width=width,
        depth=depth,
        severity=severity,
    )
    return mix_chains(images, plan)
