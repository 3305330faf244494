"""Switchable normalisation: a learnt mixture of instance, layer and batch statistics.

    y = gamma (x - sum_k w_k mu_k) / sqrt(sum_k v_k var_k + eps) + beta,   w, v softmaxes of three

Source: Luo et al., "Differentiable Learning-to-Normalize via Switchable Normalization", ICLR 2019,
https://arxiv.org/abs/1806.10779. Running statistics are torch's, and so is their momentum; the
released code counts it from the other end and starts its variance at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnsn.layers.statistics import through_statistics

__all__ = ["SwitchableNorm"]

TINY = 1e-12


class SwitchableNorm(nn.Module):
    """Of maps (B, C, H, W).

    Args:
        channels: C.
        eps: added to the variance, inside the root.
        momentum: of the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SwitchableNorm:
        """With what a batch norm has learnt."""
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum or 0.1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(made, name).data.copy_(getattr(norm, name))
        return made

    def forward(self, x: Tensor) -> Tensor:
        return through_statistics(x, None, TINY, self._numbers)

    def _numbers(self, mean: Tensor, std: Tensor, count: int | Tensor) -> tuple[Tensor, Tensor]:
        var = (std.square() - TINY).clamp(min=0) * (count - 1) / count
        means, variances = [mean], [var]
        for dim in (1, 0):
            # All of a sample's positions, then all of a channel's: within and between.
            means.append(mean.mean(dim, keepdim=True))
            variances.append(
                var.mean(dim, keepdim=True) + mean.var(dim, correction=0, keepdim=True)
            )
        if self.training:
            self._follow(means[2][0], variances[2][0], count * len(mean))
        else:
            means[2] = self.running_mean.to(mean.dtype)[None]
            variances[2] = self.running_var.to(mean.dtype)[None]
        shares = (w.to(mean.dtype).softmax(0) for w in (self.mean_weight, self.var_weight))
        centre, spread = (
            weights[0] * parts[0] + weights[1] * parts[1] + weights[2] * parts[2]
            for weights, parts in zip(shares, (means, variances), strict=True)
        )
        gain = self.weight.to(mean.dtype) * torch.rsqrt(spread + self.eps)
        return gain, gain * (mean - centre) + self.bias.to(mean.dtype)

    def _follow(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        with torch.no_grad():
            unbiased = var * (count / max(count - 1, 1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(new.to(running.dtype), self.momentum)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"
