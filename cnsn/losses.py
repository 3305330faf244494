"""Consistency between the predictions on several views of the same images.

    JSD(p_1, ..., p_n) = 1/n * sum_i KL(p_i || m),    m = (p_1 + ... + p_n) / n

Source: Hendrycks et al., "AugMix", ICLR 2020, https://arxiv.org/abs/1912.02781; used by CNSN with
views that differ by CrossNorm instead of by augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["jsd_consistency"]


def jsd_consistency(logits: Sequence[Tensor], min_probability: float = 1e-7) -> Tensor:
    """Jensen-Shannon divergence of the views' predictions, in nats, averaged over the batch.

    Args:
        logits: one tensor (B, classes) a view, at least two.
        min_probability: the mixture is clamped to [min_probability, 1] before its logarithm.

    Returns:
        A scalar in float32, from 0 to log(number of views).

    Raises:
        ValueError: for fewer than two views or views of different shapes.
    """
    if len(logits) < 2:
        raise ValueError(f"Expected `logits` to hold at least 2 views, but got {len(logits)}.")
    shapes = {tuple(view.shape) for view in logits}
    if len(shapes) > 1 or logits[0].ndim != 2:
        raise ValueError(f"Expected `logits` to be of one shape (B, classes), but got {shapes}.")
    log_p = torch.log_softmax(torch.stack(list(logits)).float(), dim=-1)
    p = log_p.exp()
    log_mixture = p.mean(0).clamp(min_probability, 1.0).log()
    return (p * (log_p - log_mixture)).sum(-1).mean()
