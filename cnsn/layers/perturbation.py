"""Normalization Perturbation (NP) and NP+: statistics multiplied by noise around one.

    NP     y = a (x - mu) + b mu                         a, b ~ N(1, spread)
    NP+    y = a (x - mu) + (a + d (b - a)) mu           d = Delta / max Delta

for each channel of each sample, with Delta the variance of mu over the batch: channels whose means
differ between samples have more of the style. Source: Fan et al., "Normalization Perturbation: A
Simple Domain Generalization Method for Real-World Domain Shifts", 2022,
https://arxiv.org/abs/2211.04393; formulas as in equations 4 to 6 of Udupa et al., CVPR 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.layers.statistics import Rule, StatisticsRestyling, check_share

__all__ = ["NP", "NPPlus"]


class NP(StatisticsRestyling):
    """Perturbs channel statistics; identity unless training and `active`.

    Args:
        spread: standard deviation of the noise.
        detach: statistics are constants to the gradient.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. A batch of one passes
    unchanged, as in the other restylings. There are no partners. The default of `spread` is ours:
    the text that could be read has no number.
    """

    PAIRED = False

    def __init__(
        self,
        *,
        spread: float = 0.5,
        detach: bool = False,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        check_share("spread", spread)
        self.spread, self.detach = spread, detach

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        of_std, of_mean = (
            1 + self.spread * self.draw_normal(batch, channels, device) for _ in range(2)
        )

        def rule(mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
            gain = of_std.to(mean.dtype)
            return gain, (gain + self._share(mean) * (of_mean - gain)) * mean

        return rule

    def _share(self, mean: Tensor) -> Tensor | float:
        """How much of the noise a channel's mean takes for itself, beside that of its spread."""
        return 1.0

    def extra_repr(self) -> str:
        return f"spread={self.spread}, detach={self.detach}{self.layout_repr()}"


class NPPlus(NP):
    """NP whose noise of the means is that of channels whose means differ over the batch."""

    def _share(self, mean: Tensor) -> Tensor:
        delta = mean.var(0)
        return delta / delta.max().clamp(min=torch.finfo(delta.dtype).tiny)
