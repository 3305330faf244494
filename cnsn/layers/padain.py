"""pAdaIN: CrossNorm's exchange with the style as a constant, seldom and at every convolution.

    y = sigma_style (x - mu) / sigma + mu_style        no gradient reaches the style's sample

Source: Nuriel et al., "Permuted AdaIN: Reducing the Bias Towards Global Statistics in Image
Classification", CVPR 2021, https://arxiv.org/abs/2010.05785
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.layers.statistics import Rule, StatisticsRestyling, styles

__all__ = ["PAdaIN"]


class PAdaIN(StatisticsRestyling):
    """Exchanges channel statistics of samples; identity unless training and `active`.

    Args:
        detach: the style's statistics are constants to the gradient, as in the paper; the own ones
            never are.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. A batch of one passes
    unchanged. `eps` is once inside the root; the released code adds it a second time to the root.
    """

    def __init__(
        self, *, detach: bool = True, channel_dim: int = 1, prefix_tokens: int = 0
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        self.style_detach = detach

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        order = self.draw_order(batch, device)

        def rule(mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
            given = (mean.detach(), std.detach()) if self.style_detach else (mean, std)
            style_mean, style_std = styles(*given, order, count)
            return style_std / std, style_mean

        return rule

    def extra_repr(self) -> str:
        return f"detach={self.style_detach}{self.layout_repr()}"
