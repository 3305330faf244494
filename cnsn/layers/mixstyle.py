"""MixStyle: statistics between the own ones and those of another sample, as constants.

    y = sigma' (x - mu) / sigma + mu',    mu' = lam mu + (1 - lam) mu_style,  sigma' likewise

with lam ~ Beta(alpha, alpha) for each sample. Source: Zhou et al., "Domain Generalization with
MixStyle", ICLR 2021, https://arxiv.org/abs/2104.02008
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.kernels.regions import to_device
from cnsn.layers.statistics import Rule, StatisticsRestyling, check_share, draw_beta, styles

__all__ = ["MixStyle"]


class MixStyle(StatisticsRestyling):
    """Mixes the channel statistics of samples; identity unless training and `active`.

    Args:
        alpha: of the Beta distribution of lam (released recipes: 0.1); 0 exchanges outright.
        detach: statistics are constants to the gradient, as in the paper.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. A batch of one passes
    unchanged.
    """

    eps = 1e-6

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        detach: bool = True,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        check_share("alpha", alpha)
        self.alpha, self.detach = alpha, detach

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        order = self.draw_order(batch, device)
        lam = to_device(draw_beta(self.alpha, batch, self.generator), device)

        def rule(mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
            style_mean, style_std = styles(mean, std, order, count)
            share = lam.to(mean.dtype)
            mixed = share * std + (1 - share) * style_std
            return mixed / std, share * mean + (1 - share) * style_mean

        return rule

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, detach={self.detach}{self.layout_repr()}"
