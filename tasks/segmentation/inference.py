"""How a whole image is segmented: at once, in sliding windows, or its centre alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NO_CLASS", "EvaluationSpec", "Mode", "centre_of", "segment"]

Mode = Literal["full", "slide", "centre"]
NO_CLASS = -1  # of a pixel whose outputs are NaN or infinite


@dataclass(frozen=True)
class EvaluationSpec:
    """What a score is measured on.

    Args:
        mode: "full" gives whole images to the network; "slide" averages the probabilities of
            overlapping windows; "centre" scores the middle `window` of each image alone, as the
            released code does.
        window: side of windows and of the centre, in pixels.
        overlap: of neighbouring windows, as a fraction of their side.
        scales: factors on the images' size, whose probabilities are averaged.
        flip: average with the mirrored image's probabilities.
    """

    mode: Mode = "full"
    window: int = 713
    overlap: float = 1 / 3
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"Expected `mode` to be one of {get_args(Mode)}, but got {self.mode!r}."
            )
        if self.window < 1:
            raise ValueError(f"Expected `window` to be at least 1, but got {self.window}.")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"Expected `overlap` to be in [0, 1), but got {self.overlap}.")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"Expected `scales` to be positive factors, but got {self.scales}.")

    def __str__(self) -> str:
        words = {
            "full": "full images",
            "slide": f"sliding windows of {self.window}",
            "centre": f"centre crops of {self.window}",
        }[self.mode]
        if self.scales != (1.0,):
            words += f", scales {', '.join(f'{scale:g}' for scale in self.scales)}"
        return words + (", mirrored too" if self.flip else "")


def centre_of(x: Tensor, window: int) -> Tensor:
    """The middle of (..., H, W), at most `window` a side."""
    height, width = x.shape[-2:]
    tall, wide = min(height, window), min(width, window)
    top, left = (height - tall) // 2, (width - wide) // 2
    return x[..., top : top + tall, left : left + wide]


def segment(logits_of: Callable[[Tensor], Tensor], images: Tensor, spec: EvaluationSpec) -> Tensor:
    """Class numbers, int64 (B, H, W), of images (B, 3, H, W); with "centre", of their middle.

    A pixel is of no class, -1, where an output that it follows from is not finite.

    Args:
        logits_of: the network: (B, 3, h, w) to (B, classes, h, w).
        images: normalised, all of one size.
        spec: how.
    """
    if spec.mode == "centre":
        images = centre_of(images, spec.window)
    size = images.shape[-2:]
    total: Tensor | None = None
    for scale in spec.scales:
        scaled = images
        if scale != 1:
            shape = [max(1, round(side * scale)) for side in size]
            scaled = F.interpolate(images, shape, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if spec.flip else (False,):
            view = scaled.flip(-1) if mirrored else scaled
            slide = spec.mode == "slide"
            scores = _windows(logits_of, view, spec) if slide else _known(logits_of(view))
            scores = scores.flip(-1) if mirrored else scores
            if scale != 1:
                scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
            if spec.mode != "slide" and (len(spec.scales) > 1 or spec.flip):
                scores = scores.float().softmax(1)
            total = scores if total is None else total + scores
    assert total is not None
    return total.argmax(1).masked_fill(total[:, 0].isnan(), NO_CLASS)


def _known(logits: Tensor) -> Tensor:
    """The logits (B, classes, H, W); all of a pixel are NaN where one is not finite."""
    unknown = ~logits.sum(1, keepdim=True, dtype=torch.float32).isfinite()
    return logits.masked_fill(unknown, torch.nan)


def _windows(logits_of: Callable[[Tensor], Tensor], images: Tensor, spec: EvaluationSpec) -> Tensor:
    """Mean probabilities (B, classes, H, W) over overlapping windows."""
    height, width = images.shape[-2:]
    total: Tensor | None = None
    times = images.new_zeros((1, 1, height, width), dtype=torch.float32)
    for rows in _spans(height, spec):
        for columns in _spans(width, spec):
            scores = _known(logits_of(images[..., rows, columns])).float().softmax(1)
            if total is None:
                shape = (len(images), scores.shape[1], height, width)
                total = images.new_zeros(shape, dtype=torch.float32)
            total[..., rows, columns] += scores
            times[..., rows, columns] += 1
    assert total is not None
    return total / times


def _spans(length: int, spec: EvaluationSpec) -> Iterator[slice]:
    """Windows that cover a side, the last one flush with its end."""
    step = max(1, round(spec.window * (1 - spec.overlap)))
    last = max(length - spec.window, 0)
    for start in [*range(0, last, step), last]:
        yield slice(start, min(start + spec.window, length))
