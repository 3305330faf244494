"""Exchange of chosen moments: the mean, the standard deviation or both.

    y = sigma' (x - mu) / sigma + mu'      with mu', sigma' the partner's where they are exchanged

Both are CrossNorm's exchange; `detach` tells what its gradients through the statistics are worth.
The orders apart are the AdaMean and AdaStd of EFDMix's ablation: Zhang et al., CVPR 2022,
https://arxiv.org/abs/2203.07740
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cnsn.layers.statistics import Rule, StatisticsRestyling, styles

__all__ = ["MomentExchange"]

ORDERS = ("mean", "std")


class MomentExchange(StatisticsRestyling):
    """Exchanges chosen channel statistics of samples; identity unless training and `active`.

    Args:
        orders: which are exchanged, of "mean" and "std".
        detach: statistics are constants to the gradient; CrossNorm's are not.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. A batch of one passes
    unchanged.
    """

    def __init__(
        self,
        *,
        orders: Sequence[str] = ORDERS,
        detach: bool = False,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        if not orders or len(set(orders)) < len(orders) or not set(orders) <= set(ORDERS):
            raise ValueError(
                f"Expected `orders` to hold one or both of {ORDERS}, each once, but got "
                f"{tuple(orders)}."
            )
        self.orders, self.detach = tuple(orders), detach

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        order = self.draw_order(batch, device)

        def rule(mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
            style_mean, style_std = styles(mean, std, order, count)
            gain = style_std / std if "std" in self.orders else torch.ones_like(std)
            return gain, style_mean if "mean" in self.orders else mean

        return rule

    def extra_repr(self) -> str:
        return f"orders={self.orders}, detach={self.detach}{self.layout_repr()}"
