"""SelfNorm: a gate for each channel, learnt from the channel's own statistics.

    y = g(mu, sigma) * x                                  (one-sided, as released)
    y = g(mu, sigma) * (x - mu) + f(mu, sigma) * mu       (two-sided, as in the paper's text)

It works at training and test time. Source: Tang et al., ICCV 2021,
https://arxiv.org/abs/2102.02811
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cnsn import kernels
from cnsn.functional import instance_stats
from cnsn.layers.base import Gate, compiling

__all__ = ["SelfNorm"]


class SelfNorm(Gate):
    """Rescales each channel by a gate learnt from its mean and standard deviation.

    Args:
        channels: C of the input.
        two_sided: gate the mean by a second function f, as in the paper's text; the released
            networks use one function (the default).
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens (class and register tokens) pass unchanged and
            count in no statistics.

    Shape: see :class:`cnsn.layers.base.Gate`. Parameters have the names and shapes of the official
    checkpoints: ``g_fc.weight`` (C, 1, 2), ``g_bn.*`` (C,), and ``f_fc``, ``f_bn``. With `mask`,
    bool of the shape of `x` without its channels, statistics come from the positions that count.
    What the result holds at the others means nothing, but zeros stay zeros there.

    ``g_fc`` and ``f_fc`` hold weights and are never called: hooks on them do not run (those on the
    batch norms do). Under activation checkpointing the running statistics move twice a step, as
    those of every batch norm: once in the forward and once in its recomputation.

    Raises:
        ValueError: for what is no such map, a wrong number of channels, or a batch of one sample
            while training (its batch normalisation over the batch is then undefined).
    """

    eps = 1e-12

    def __init__(
        self,
        channels: int,
        *,
        two_sided: bool = False,
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channels, channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        self.g_fc = nn.Conv1d(channels, channels, kernel_size=2, bias=False, groups=channels)
        self.g_bn = nn.BatchNorm1d(channels)
        self.f_fc: nn.Conv1d | None = None
        self.f_bn: nn.BatchNorm1d | None = None
        if two_sided:
            self.f_fc = nn.Conv1d(channels, channels, kernel_size=2, bias=False, groups=channels)
            self.f_bn = nn.BatchNorm1d(channels)

    def rescale(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None and kernels.suit(x):
            return self._fast(x)
        if mask is None:
            statistics = kernels.traced_statistics if compiling() else instance_stats
            return self._recalibrated(x, *statistics(x, self.eps))
        y = self._recalibrated(x, *instance_stats(x, self.eps, mask))
        # One-sided, zeros stay zeros by themselves, and a copy of the map is saved.
        return y if self.f_fc is None else torch.where(mask.unsqueeze(1), y, x)

    def _fast(self, x: Tensor) -> Tensor:
        pairs = [(self.g_fc, self.g_bn), (self.f_fc, self.f_bn)]
        gates = kernels.gates(x, [(fc, bn) for fc, bn in pairs if fc is not None])
        if gates is not None:
            return kernels.gated(x, self.eps, gates)
        maps = kernels.Statistics(x, self.eps)
        gain = self._gate(maps.mean, maps.std, self.g_fc, self.g_bn)
        if self.f_fc is None or self.f_bn is None:
            return maps.scaled(gain)
        mean_gain = self._gate(maps.mean, maps.std, self.f_fc, self.f_bn)
        return maps.restyled(gain, mean_gain * maps.mean)

    def _recalibrated(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        gain = self._gate(mean, std, self.g_fc, self.g_bn)
        if self.f_fc is None or self.f_bn is None:
            return (x * gain).to(x.dtype)
        mean_gain = self._gate(mean, std, self.f_fc, self.f_bn)
        return (gain * (x - mean) + mean_gain * mean).to(x.dtype)

    @staticmethod
    def _gate(mean: Tensor, std: Tensor, fc: nn.Conv1d, bn: nn.Module) -> Tensor:
        # The grouped convolution of width 2 written out: it stays in float32 under autocast, whose
        # half-precision convolution would round the statistics.
        weight = fc.weight.to(mean.dtype)
        score = mean.flatten(1) * weight[:, 0, 0] + std.flatten(1) * weight[:, 0, 1]
        normalised = bn(score.to(fc.weight.dtype))
        return torch.sigmoid(normalised.to(mean.dtype)).view_as(mean)

    def open(self, moved: float) -> None:
        """Let the gates begin near ``1 - moved``, whatever the statistics; all parameters learn.

        The batch norm's weight begins near 0, for its averages know nothing of the maps yet: in
        eval mode large statistics would shut gates at once. The gates' gradients are smaller than
        with the released start, about as `moved` is smaller than 1/4.
        """
        for bn in (self.g_bn, self.f_bn):
            if bn is not None:
                nn.init.constant_(bn.weight, 0.02)
                nn.init.constant_(bn.bias, math.log((1 - moved) / moved))

    def check(self, x: Tensor) -> None:
        super().check(x)
        if self.training and x.shape[0] < 2:
            raise ValueError(
                "Expected `x` to hold at least 2 samples while SelfNorm is training, but got "
                f"{x.shape[0]}: use a larger batch, drop the last one, or call .eval() first."
            )

    def extra_repr(self) -> str:
        return f"{self.channels}, two_sided={self.f_fc is not None}{self.layout_repr()}"
