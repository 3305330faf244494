"""DSU: statistics with Gaussian noise, as wide as they spread over the batch.

    y = sigma' (x - mu) / sigma + mu',    mu' = mu + e1 S(mu),  sigma' = sigma + e2 S(sigma)

where S(.) is the standard deviation over the batch and e1, e2 ~ N(0, 1) are drawn for each channel
of each sample; sigma' may become negative, as released. Source: Li et al., "Uncertainty Modeling
for Out-of-Distribution Generalization", ICLR 2022, https://arxiv.org/abs/2202.03958
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.layers.statistics import Rule, StatisticsRestyling, check_share

__all__ = ["DSU"]


class DSU(StatisticsRestyling):
    """Draws statistics around the own ones; identity unless training and `active`.

    Args:
        factor: multiplies the spread; the paper has 1.
        detach: statistics are constants to the gradient; nothing is in the paper.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. A batch of one, which has
    no spread, passes unchanged. There are no partners.
    """

    PAIRED = False
    eps = 1e-6

    def __init__(
        self,
        *,
        factor: float = 1.0,
        detach: bool = False,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        check_share("factor", factor)
        self.factor, self.detach = factor, detach

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        of_mean, of_std = (self.draw_normal(batch, channels, device) for _ in range(2))

        def rule(mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
            new_mean = mean + of_mean * self._spread(mean)
            return (std + of_std * self._spread(std)) / std, new_mean

        return rule

    def _spread(self, statistic: Tensor) -> Tensor:
        return self.factor * (statistic.var(0) + self.eps).sqrt()

    def extra_repr(self) -> str:
        return f"factor={self.factor}, detach={self.detach}{self.layout_repr()}"
