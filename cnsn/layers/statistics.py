"""Maps that change by their channels' own statistics.

    y = gain (x - mean) + shift        or        y = gain x

where a rule makes (B, C) numbers gain and shift of mean and standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cnsn import kernels
from cnsn.functional import instance_stats
from cnsn.kernels.regions import to_device
from cnsn.layers.base import Restyling, compiling

__all__ = [
    "Rule",
    "StatisticsRestyling",
    "check_share",
    "draw_beta",
    "styles",
    "through_statistics",
]

# mean and std (B, C), and the number of positions, (B, 1) where a mask makes it each sample's own.
Rule = Callable[[Tensor, Tensor, int | Tensor], tuple[Tensor, Tensor | None]]


def through_statistics(
    x: Tensor, mask: Tensor | None, eps: float, rule: Rule, *, detach: bool = False
) -> Tensor:
    """What `rule` makes of maps (B, C, ...).

    Args:
        x: the maps.
        mask: bool, of the shape of `x` without its channels, the positions that count; others stay.
        eps: added to the unbiased variance, inside the root.
        rule: gives gain and shift, or None as shift for ``gain * x``.
        detach: whether statistics are constants to the gradient.
    """
    if mask is None and kernels.suit(x):
        maps = kernels.Statistics(x, eps)
        if detach:
            maps.mean, maps.std = maps.mean.detach(), maps.std.detach()
        gain, shift = rule(maps.mean, maps.std, math.prod(x.shape[2:]))
        return maps.scaled(gain) if shift is None else maps.restyled(gain, shift)
    source = x.detach() if detach else x
    if mask is None and compiling():
        mean, std = kernels.traced_statistics(source, eps)
    else:
        mean, std = instance_stats(source, eps, mask)
    count = math.prod(x.shape[2:]) if mask is None else mask.flatten(1).sum(1, keepdim=True)
    gain, shift = rule(mean.flatten(1), std.flatten(1), count)
    gain, floats = gain.view_as(mean), x.to(mean.dtype)
    if shift is None:
        return (gain * floats).to(x.dtype)
    y = (gain * (floats - mean) + shift.view_as(mean)).to(x.dtype)
    return y if mask is None else torch.where(mask.unsqueeze(1), y, x)


class StatisticsRestyling(Restyling):
    """A restyling that gives new means and standard deviations; a batch of one has no other style.

    A subclass says what it draws for a batch, in :meth:`draw`.

    Attributes:
        eps: added to the unbiased variance, inside the root.
        detach: whether statistics are constants to the gradient.
    """

    eps = 1e-5
    detach = False

    def draw(self, batch: int, channels: int, device: torch.device) -> Rule:
        """Draw for maps (batch, channels, ...); what is then made of their statistics."""
        raise NotImplementedError

    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if len(x) < 2:
            return x
        rule = self.draw(x.shape[0], x.shape[1], x.device)
        return through_statistics(x, mask, self.eps, rule, detach=self.detach)

    def draw_order(self, batch: int, device: torch.device) -> Tensor:
        """Whose style each takes, on `device`."""
        return to_device(self.draw_partners(batch), device)

    def draw_normal(self, batch: int, channels: int, device: torch.device) -> Tensor:
        """Standard normal numbers (batch, channels), on `device`."""
        drawn = torch.randn(batch, channels, generator=self.generator, device="cpu")
        return to_device(drawn, device)


def styles(mean: Tensor, std: Tensor, order: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """The partners' statistics; one with a single position has no style to give."""
    style_mean, style_std = mean[order], std[order]
    if isinstance(count, int):
        return style_mean, style_std
    enough = (count > 1) & (count[order] > 1)
    return torch.where(enough, style_mean, mean), torch.where(enough, style_std, std)


def draw_beta(alpha: float, n: int, generator: torch.Generator | None) -> Tensor:
    """`n` draws (n, 1) from Beta(alpha, alpha), on CPU; `alpha` 0 is 0, without a draw."""
    if alpha == 0:
        return torch.zeros(n, 1, device="cpu")
    parameters = torch.full((2, n, 1), alpha, dtype=torch.float64, device="cpu")
    one, other = torch._standard_gamma(parameters, generator=generator)
    return (one / (one + other)).float()


def check_share(name: str, value: float) -> None:
    """Raise ValueError for what is not finite, or negative."""
    if not 0 <= value < math.inf:
        raise ValueError(f"Expected `{name}` to be finite and 0 or more, but got {value}.")
