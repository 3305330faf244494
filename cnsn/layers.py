"""CrossNorm and SelfNorm as modules, and CNSN, which holds both.

CrossNorm exchanges channel statistics between feature maps while training, so that the network
sees more styles. SelfNorm learns, per channel, a gate from the channel's own statistics,

    y = g(mu, sigma) * x                                  (one-sided, as released)
    y = g(mu, sigma) * (x - mu) + f(mu, sigma) * mu       (two-sided, as in the paper's text)

and works at training and test time. Source: Tang et al., ICCV 2021,
https://arxiv.org/abs/2102.02811
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from cnsn import functional, kernels
from cnsn.functional import instance_stats, restyle, sample_box, sample_span
from cnsn.kernels.regions import Box, to_device

__all__ = ["CNSN", "Crop", "CrossNorm", "Mode", "SelfNorm"]

Crop = Literal["neither", "style", "content", "both"]
Mode = Literal["2-instance", "1-instance"]


class CrossNorm(nn.Module):
    """Exchanges the channel statistics of feature maps; identity unless training and `active`.

    Args:
        crop: whose statistics come from a random box: neither map's, the style's, the content's
            (then only the box is restyled) or both.
        beta: the box's area ratio follows Beta(beta, beta).
        min_area: smallest area ratio of a box, in [0, 1).
        mode: the style comes from another sample of the batch ("2-instance") or from another
            channel of the same sample ("1-instance").

    Shape: (B, C, H, W) or (B, C, L), returned as it came. A map of a single position has no style
    and is returned unchanged. One box and one permutation serve the whole batch, as in the
    released code.

    Sequences of different lengths: ``forward(x, mask)`` with `mask` bool (B, L) takes statistics
    from the positions that count. What the result holds at the others means nothing, but zeros stay
    zeros there. The box is then the same share of each sequence's own positions.

    Attributes:
        active: set for the length of a forward by :func:`cnsn.crossnorm_active`.
        generator: CPU generator of permutation and boxes; None means torch's global one.
        partner: explicit permutation (B,) used instead of a random one, for styles that must come
            from a chosen sample; None means random.
        rows: the samples of the batch that exchange their styles among each other, the others pass
            unchanged; None means all. `partner` then counts within them.
    """

    eps = 1e-5

    def __init__(
        self,
        *,
        crop: Crop = "neither",
        beta: float = 1.0,
        min_area: float = 0.1,
        mode: Mode = "2-instance",
    ) -> None:
        super().__init__()
        check_crossnorm_options(crop, beta, min_area)
        if mode not in get_args(Mode):
            raise ValueError(f"Expected `mode` to be one of {get_args(Mode)}, but got {mode!r}.")
        self.crop: Crop = crop
        self.beta = beta
        self.min_area = min_area
        self.mode: Mode = mode
        self.active = False
        self.generator: torch.Generator | None = None
        self.partner: Tensor | None = None
        self.rows: slice | None = None
        self._number = kernels.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy is another site.
        self._number = kernels.register(self)

    @property
    def dim(self) -> int:
        """The dimension that styles are permuted along."""
        return 0 if self.mode == "2-instance" else 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training or math.prod(x.shape[2:]) < 2:
            return x
        if mask is None and _compiling():
            # Not a word of what is active: the graph would hold for that alone.
            return kernels.exchange(x, self._number, boxed=self.crop != "neither")
        if not self.active:
            return x
        _check_batch(x)
        if self.rows is None:
            return self._exchange(x, mask)
        start, stop, _ = self.rows.indices(len(x))
        own = None if mask is None else mask[start:stop]
        return torch.cat([x[:start], self._exchange(x[start:stop], own), x[stop:]])

    # Random boxes are Python numbers; a compiled graph would be compiled again for each of them.
    @torch.compiler.disable
    def _exchange(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            return self._masked_exchange(x, mask)
        order, content_box, style_box = self.draw(x.shape)
        if kernels.suit(x):
            return kernels.exchanged(x, order, self.dim, self.eps, content_box, style_box)
        order = to_device(order, x.device)
        return functional.exchange(x, order, self.dim, self.eps, content_box, style_box)

    def _masked_exchange(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError(
                f"Expected `x` with a mask to be sequences (B, C, L), but got {tuple(x.shape)}."
            )
        dim = self.dim
        order = to_device(self._draw_order(x.shape[dim]), x.device)
        style = self._boxed(mask) if self.crop in ("style", "both") else mask
        own = self._boxed(mask) if self.crop in ("content", "both") else mask
        stats = instance_stats(x, self.eps, own)
        styles = stats if own is style else instance_stats(x, self.eps, style)
        restyled = restyle(x, *stats, *(s.index_select(dim, order) for s in styles))
        # A single position has no style: it neither gets nor gives one.
        enough = style.sum(1) > 1
        enough = enough.index_select(0, order) if dim == 0 else enough
        changed = own & (enough & (own.sum(1) > 1))[:, None]
        return torch.where(changed[:, None], restyled, x)

    def _boxed(self, mask: Tensor) -> Tensor:
        """The positions of `mask` in a random box: the same share of every sequence's own."""
        first, last = self._draw_span(mask.sum(1, keepdim=True))
        place = mask.cumsum(1) - 1
        return mask & (place >= first) & (place < last)

    def draw(self, shape: torch.Size) -> tuple[Tensor, Box | None, Box | None]:
        """What a forward of maps of `shape` draws: the partners, the content's and the style's box.

        None is the whole map.
        """
        order = self._draw_order(shape[self.dim])
        style = self._draw_box(shape) if self.crop in ("style", "both") else None
        content = self._draw_box(shape) if self.crop in ("content", "both") else None
        return order, content, style

    def _draw_order(self, n: int) -> Tensor:
        if self.partner is None:
            return torch.randperm(n, generator=self.generator, device="cpu")
        if self.partner.shape != (n,):
            raise ValueError(
                f"Expected `partner` to hold one index for each of {n} maps, "
                f"but got shape {tuple(self.partner.shape)}."
            )
        return self.partner

    def _draw_box(self, shape: torch.Size) -> Box:
        """A random box; a sequence is a map one position wide."""
        if len(shape) == 3 or shape[3] == 1:
            first, last = map(int, self._draw_span(torch.tensor(shape[2], device="cpu")))
            return first, 0, last - first, 1
        return sample_box(
            *shape[2:], beta=self.beta, min_area=self.min_area, generator=self.generator
        )

    def _draw_span(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return sample_span(
            lengths, beta=self.beta, min_area=self.min_area, generator=self.generator
        )

    def extra_repr(self) -> str:
        return f"crop={self.crop!r}, beta={self.beta}, min_area={self.min_area}, mode={self.mode!r}"


class SelfNorm(nn.Module):
    """Rescales each channel by a gate learnt from its mean and standard deviation.

    Args:
        channels: C of the input.
        two_sided: gate the mean by a second function f, as in the paper's text; the released
            networks use one function (the default).

    Shape: (B, C, H, W) or (B, C, L), returned as it came. Parameters have the names and shapes of
    the official checkpoints: ``g_fc.weight`` (C, 1, 2), ``g_bn.*`` (C,), and ``f_fc``, ``f_bn``.
    With `mask`, bool (B, H, W) or (B, L), statistics come from the positions that count. What the
    result holds at the others means nothing, but zeros stay zeros there.

    Raises:
        ValueError: for a wrong number of channels, or a batch of one sample while training (its
            batch normalisation over the batch is then undefined).
    """

    eps = 1e-12

    def __init__(self, channels: int, *, two_sided: bool = False) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"Expected `channels` to be at least 1, but got {channels}.")
        self.channels = channels
        self.g_fc = nn.Conv1d(channels, channels, kernel_size=2, bias=False, groups=channels)
        self.g_bn = nn.BatchNorm1d(channels)
        self.f_fc: nn.Conv1d | None = None
        self.f_bn: nn.BatchNorm1d | None = None
        if two_sided:
            self.f_fc = nn.Conv1d(channels, channels, kernel_size=2, bias=False, groups=channels)
            self.f_bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self._check(x)
        if mask is None and kernels.suit(x):
            return self._fast(x)
        if mask is None:
            statistics = kernels.traced_statistics if _compiling() else instance_stats
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

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (3, 4) or x.shape[1] != self.channels:
            raise ValueError(
                f"Expected `x` to be of shape (B, {self.channels}, ...) with 3 or 4 dimensions, "
                f"but got {tuple(x.shape)}."
            )
        _check_batch(x)
        if self.training and x.shape[0] < 2:
            raise ValueError(
                "Expected `x` to hold at least 2 samples while SelfNorm is training, but got "
                f"{x.shape[0]}: use a larger batch, drop the last one, or call .eval() first."
            )

    def extra_repr(self) -> str:
        return f"{self.channels}, two_sided={self.f_fc is not None}"


class CNSN(nn.Module):
    """CrossNorm, then SelfNorm; either may be missing.

    Shape: (B, C, H, W) or (B, C, L), returned as it came. `mask` is that of the two layers.
    """

    def __init__(
        self, *, crossnorm: CrossNorm | None = None, selfnorm: SelfNorm | None = None
    ) -> None:
        super().__init__()
        self.crossnorm = crossnorm
        self.selfnorm = selfnorm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.crossnorm is not None:
            x = self.crossnorm(x, mask)
        if self.selfnorm is not None:
            x = self.selfnorm(x, mask)
        return x


def _compiling() -> bool:
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def _check_batch(x: Tensor) -> None:
    if x.shape[0] == 0:
        raise ValueError(f"Expected `x` to hold at least 1 sample, but got {tuple(x.shape)}.")


def check_crossnorm_options(crop: str, beta: float, min_area: float) -> None:
    """Raise ValueError for options that no CrossNorm can have."""
    if crop not in get_args(Crop):
        raise ValueError(f"Expected `crop` to be one of {get_args(Crop)}, but got {crop!r}.")
    if not 0 < beta < math.inf:
        raise ValueError(f"Expected `beta` to be positive, but got {beta}.")
    if not 0.0 <= min_area < 1.0:
        raise ValueError(f"Expected `min_area` to be in [0, 1), but got {min_area}.")
