"""CrossNorm: feature maps of a batch exchange their channel statistics while training.

    y = sigma_style (x - mu_content) / sigma_content + mu_style

so that the network sees more styles. Source: Tang et al., ICCV 2021,
https://arxiv.org/abs/2102.02811
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cnsn import functional, kernels
from cnsn.functional import instance_stats, restyle, sample_box, sample_span
from cnsn.kernels.regions import Box, to_device
from cnsn.layers.base import Restyling

__all__ = ["Crop", "CrossNorm", "Mode", "check_crossnorm_options"]

Crop = Literal["neither", "style", "content", "both"]
Mode = Literal["2-instance", "1-instance"]


class CrossNorm(Restyling):
    """Exchanges the channel statistics of feature maps; identity unless training and `active`.

    Args:
        crop: whose statistics come from a random box: neither map's, the style's, the content's
            (then only the box is restyled) or both.
        beta: the box's area ratio follows Beta(beta, beta).
        min_area: smallest area ratio of a box, in [0, 1).
        mode: the style comes from another sample of the batch ("2-instance") or from another
            channel of the same sample ("1-instance").
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens (class and register tokens) pass unchanged and
            count in no statistics.

    Shape: see :class:`cnsn.layers.base.Restyling`. One box and one permutation serve the whole
    batch, as in the released code. The box of a video is the same in each of its frames, that of a
    sequence or of tokens is one piece of them.

    Sequences of different lengths: ``forward(x, mask)`` with `mask` bool (B, L), or (B, N) for
    tokens, takes statistics from the positions that count. What the result holds at the others
    means nothing, but zeros stay zeros there. The box is then the same share of each sequence's own
    positions.

    Attributes and errors: see :class:`cnsn.layers.base.Restyling`.
    """

    eps = 1e-5

    def __init__(
        self,
        *,
        crop: Crop = "neither",
        beta: float = 1.0,
        min_area: float = 0.1,
        mode: Mode = "2-instance",
        channel_dim: int = 1,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__(channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        check_crossnorm_options(crop, beta, min_area, mode)
        self.crop: Crop = crop
        self.beta = beta
        self.min_area = min_area
        self.mode: Mode = mode
        self._number = kernels.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy is another site.
        self._number = kernels.register(self)

    @property
    def dim(self) -> int:
        """The dimension that styles are permuted along."""
        return 0 if self.mode == "2-instance" else 1

    def traced(self, x: Tensor) -> Tensor:
        # Not a word of what is active: the graph would hold for that alone.
        boxed = self.crop != "neither"
        if boxed and x.ndim == 5:
            return self._eager(x)
        return self.on_maps(lambda maps, _: kernels.exchange(maps, self._number, boxed), x, None)

    # Random boxes are Python numbers; a compiled graph would be compiled again for each of them.
    @torch.compiler.disable
    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None:
            return self._masked_exchange(x, mask)
        order, content_box, style_box = self.draw(x.shape)
        # A box of a video, the same in every frame, is none of its T * H rows.
        if kernels.suit(x) and (x.ndim < 5 or content_box is style_box is None):
            return kernels.exchanged(x, order, self.dim, self.eps, content_box, style_box)
        order = to_device(order, x.device)
        return functional.exchange(x, order, self.dim, self.eps, content_box, style_box)

    def _masked_exchange(self, x: Tensor, mask: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError(
                "Expected `x` with a mask to be sequences (B, C, L) or tokens (B, N, C), but got "
                f"{x.ndim - 2} dimensions of positions."
            )
        dim = self.dim
        order = to_device(self.draw_partners(x.shape[dim]), x.device)
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
        order = self.draw_partners(shape[self.dim])
        style = self._draw_box(shape) if self.crop in ("style", "both") else None
        content = self._draw_box(shape) if self.crop in ("content", "both") else None
        return order, content, style

    def _draw_box(self, shape: torch.Size) -> Box:
        """A random box; a sequence is a map one position wide, a video has that of its frames."""
        height, width = (shape[2], 1) if len(shape) == 3 else shape[-2:]
        if width == 1:
            first, last = map(int, self._draw_span(torch.tensor(height, device="cpu")))
            return first, 0, last - first, 1
        return sample_box(
            height, width, beta=self.beta, min_area=self.min_area, generator=self.generator
        )

    def _draw_span(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return sample_span(
            lengths, beta=self.beta, min_area=self.min_area, generator=self.generator
        )

    def extra_repr(self) -> str:
        options = f"crop={self.crop!r}, beta={self.beta}, min_area={self.min_area}"
        return f"{options}, mode={self.mode!r}{self.layout_repr()}"


def check_crossnorm_options(crop: str, beta: float, min_area: float, mode: str) -> None:
    """Raise ValueError for options that no CrossNorm can have."""
    if crop not in get_args(Crop):
        raise ValueError(f"Expected `crop` to be one of {get_args(Crop)}, but got {crop!r}.")
    if not 0 < beta < math.inf:
        raise ValueError(f"Expected `beta` to be positive, but got {beta}.")
    if not 0.0 <= min_area < 1.0:
        raise ValueError(f"Expected `min_area` to be in [0, 1), but got {min_area}.")
    if mode not in get_args(Mode):
        raise ValueError(f"Expected `mode` to be one of {get_args(Mode)}, but got {mode!r}.")
