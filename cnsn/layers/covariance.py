"""Exchange of means and covariances: whitened channels, coloured like another sample's.

    y = C_style^(1/2) C^(-1/2) (x - mu) + mu_style

CrossNorm with correlations between channels; the matrices are constants to the gradient. The matrix
form is the whitening and colouring of Li et al., NeurIPS 2017, https://arxiv.org/abs/1705.08086
"""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.kernels.regions import at_least_float32, to_device
from cnsn.layers.base import Restyling

__all__ = ["CovarianceExchange"]


class CovarianceExchange(Restyling):
    """Exchanges means and channel covariances of samples; identity unless training and `active`.

    Args:
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape, attributes and errors: see :class:`cnsn.layers.base.Restyling`. At most 512 channels:
    a sample's eigenvalues, in float64, take the cube of them. A batch of one passes unchanged.
    `eps` is added to both covariances' diagonals. With fewer positions than channels, y has the
    partner's covariance only where the own map has any.
    """

    MAX_CHANNELS = 512
    eps = 1e-5

    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if len(x) < 2:
            return x
        order = to_device(self.draw_partners(len(x)), x.device)
        dtype = at_least_float32(x.dtype)
        with torch.no_grad():
            flat = x.detach().flatten(2).double()
            if mask is None:
                count = torch.full((len(x), 1, 1), flat.shape[-1], device=x.device)
                mean = flat.mean(2, keepdim=True)
                centred = flat - mean
            else:
                count = mask.sum(1)[:, None, None]
                flat = flat.masked_fill(~mask[:, None], 0)
                mean = flat.sum(2, keepdim=True) / count.clamp(min=1)
                centred = (flat - mean).masked_fill(~mask[:, None], 0)
            covariance = centred @ centred.mT / (count - 1).clamp(min=1)
            values, vectors = torch.linalg.eigh(covariance)
            roots = (values.clamp(min=0) + self.eps).sqrt()
            white = vectors / roots[:, None] @ vectors.mT
            colour = (vectors * roots[:, None] @ vectors.mT)[order]
            change = (colour @ white).to(dtype)
            # One position has no style, neither to give nor to take.
            enough = (count > 1) & (count[order] > 1)
            style, mean = mean[order].to(dtype), mean.to(dtype)
        y = change @ (x.to(dtype).flatten(2) - mean) + style
        if mask is not None:
            y = torch.where(enough & mask[:, None], y, x.flatten(2))
        return y.to(x.dtype).view(x.shape)
