"""SNR: style taken off by instance normalisation, and what helps of it gated back.

    r = x - IN(x)        y = IN(x) + SE(r) r

Source: Jin et al., "Style Normalization and Restitution for Domain Generalization and Adaptation",
2021, https://arxiv.org/abs/2101.00588. Without its dual causality loss, which compares entropies of
y and of IN(x) + (1 - SE(r)) r: what the layer is worth with that loss is not measured here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnsn.layers.squeeze import SE

__all__ = ["SNR"]


class SNR(SE):
    """Normalises each sample's channels and restores a learnt part of what that took.

    Args:
        channels: C of the input.
        reduction: of the channels in between in the gate; the released code has 16.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape: see :class:`cnsn.layers.base.Gate`. Both are affine in a channel's map, so that y is gain
    and shift too: r has the mean mu - beta.
    """

    eps = 1e-5

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(
            channels, reduction=reduction, channel_dim=channel_dim, prefix_tokens=prefix_tokens
        )
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def numbers(
        self, mean: Tensor, std: Tensor, count: int | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        count = torch.as_tensor(count, device=std.device).clamp(min=1).to(std.dtype)
        # Of the biased variance, as instance normalisation takes it.
        std = (std.square() * (count - 1) / count + self.eps / count).sqrt()
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)
        gate = self.gain(mean - bias)
        return gate + (1 - gate) * weight / std, gate * mean + (1 - gate) * bias
