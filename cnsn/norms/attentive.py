"""Attentive normalisation: a batch norm whose affine is each sample's own mixture of several.

    y = gamma(x) BN(x) + beta(x),    gamma(x) = sum_k lambda_k(x) gamma_k,  beta(x) likewise

with lambda = h-sigmoid(BN(W [mu / sigma])). Source: Li et al., "Attentive Normalization", ECCV
2020, https://arxiv.org/abs/1908.01259. Written from the text alone: the released code is for
research only and speaks of a pending patent, which whoever uses the layer should look into.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnsn.functional import instance_stats

__all__ = ["AttentiveNorm"]


class AttentiveNorm(nn.Module):
    """Of maps (B, C, H, W); training takes at least 2 samples.

    Args:
        channels: C.
        components: how many affines are mixed; our default.
        eps: of the batch norm.
        momentum: of its running statistics.
    """

    def __init__(
        self, channels: int, *, components: int = 10, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=eps, momentum=momentum, affine=False)
        self.fc = nn.Linear(channels, components, bias=False)
        self.fc_bn = nn.BatchNorm1d(components)
        self.weight = nn.Parameter(torch.empty(components, channels).normal_(1, 0.1))
        self.bias = nn.Parameter(torch.empty(components, channels).normal_(0, 0.1))

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> AttentiveNorm:
        """With what a batch norm has learnt: shares of one half each make about its affine."""
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum or 0.1).to(norm.weight)
        made.bn.load_state_dict({k: v for k, v in norm.state_dict().items() if k not in AFFINE})
        with torch.no_grad():
            made.weight.mul_(norm.weight)
            made.bias.add_(norm.bias)
            made.weight.div_(len(made.weight) / 2)
            made.bias.div_(len(made.bias) / 2)
        return made

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (s.flatten(1) for s in instance_stats(x, 1e-3))
        score = self.fc_bn(self.fc((mean / std).to(self.fc.weight.dtype)))
        shares = F.hardsigmoid(score)
        gain, shift = (shares @ p.to(shares.dtype) for p in (self.weight, self.bias))
        y = self.bn(x)
        return torch.addcmul(
            shift[:, :, None, None].to(y.dtype), gain[:, :, None, None].to(y.dtype), y
        )


AFFINE = ("weight", "bias")
