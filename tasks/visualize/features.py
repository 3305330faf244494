"""CrossNorm inside a network: feature maps before and after, and an image decoded from the latter.

The decoded image is the one that the layers before the site map nearest to the restyled features,
found by gradient descent from the content's image (feature inversion: Mahendran & Vedaldi 2015,
https://arxiv.org/abs/1412.0035).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cnsn import CrossNorm
from tasks.visualize.shift import watched
from tasks.visualize.trained import Trained

__all__ = ["Exchange", "decode", "exchange_at"]


class Exchange(NamedTuple):
    """CrossNorm at one site on two images: maps (2, C, H, W) before and after it.

    Sample 0 is the content, whose statistics are replaced by those of sample 1.
    """

    before: Tensor
    after: Tensor


@torch.no_grad()
def exchange_at(trained: Trained, site: str, images: Tensor) -> Exchange:
    """Run CrossNorm at `site` on two uint8 images (2, 3, H, W); the network is left as it was."""
    layer = trained.sites[site].crossnorm
    if not isinstance(layer, CrossNorm) or len(images) != 2:
        raise ValueError(f"Expected two images and a CrossNorm at {site}, but got {len(images)}.")
    state = layer.training, layer.active, layer.partner, layer.crop
    selfnorm, trained.sites[site].selfnorm = trained.sites[site].selfnorm, None
    layer.training, layer.active, layer.crop = True, True, "neither"
    layer.partner = torch.tensor([1, 0])
    try:
        with watched(trained) as seen:
            trained.module(trained.inputs(images))
        return Exchange(*seen[site])
    finally:
        layer.training, layer.active, layer.partner, layer.crop = state
        trained.sites[site].selfnorm = selfnorm


def decode(
    trained: Trained,
    site: str,
    target: Tensor,
    start: Tensor,
    *,
    steps: int = 300,
    rate: float = 4.0,
) -> tuple[Tensor, float]:
    """An image whose features before `site` come close to `target`.

    Args:
        trained: the network.
        site: where.
        target: (1, C, H, W).
        start: uint8 (1, 3, H, W), from which the search begins.
        steps, rate: of Adam, in grey levels.

    Returns:
        Float (1, 3, H, W) from 0 to 255, and the distance to the target that remains, relative to
        the distance at the start.
    """
    # A grey image stays grey: what differs between the colours is none of the features' doing.
    grey = bool((start == start[:, :1]).all())
    image = (start[:, :1] if grey else start).float().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    with watched(trained) as seen:
        for _ in range(steps + 1):
            trained.module(trained.inputs(image.expand(start.shape)))
            loss = (seen[site][0] - target).square().mean()
            errors.append(loss.item())
            (gradient,) = torch.autograd.grad(loss, [image])
            image.grad = gradient
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                image.clamp_(0, 255)
    return image.detach().expand(start.shape), (errors[-1] / max(errors[0], 1e-12)) ** 0.5
