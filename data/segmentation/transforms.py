"""Random scale, rotation, blur, flip and crop of an image together with its labels.

The recipe scales the image, rotates it about its centre and cuts a crop out. Here only what the
crop will show is scaled and rotated. A point q of the crop, seen from the crop's centre c, shows
the scaled image's point

    R^-1 (q + c - m) + m = R^-1 q + d,    d = R^-1 (c - m) + m,    m the image's centre,

so a window around d that holds the rotated crop is enough.

Everything is torchvision's v2 functions on tv_tensors. The scale is uniform in its range, rotation
and blur come to half of the images each, and the blur is a 5x5 Gaussian of sigma 1.1, as in
https://github.com/hszhao/semseg.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data.segmentation.labels import IGNORE

__all__ = ["JointTransform"]

Point = tuple[float, float]  # row, column

BLUR_KERNEL, BLUR_SIGMA = [5, 5], [1.1, 1.1]
_DRAWS = 7
_MARGIN = 2  # scaled pixels around what the crop shows: interpolation looks at neighbours


@dataclass(frozen=True)
class JointTransform:
    """Makes a training crop of an image and its labels.

    Args:
        crop_size: side of the square crop, in pixels.
        scale: range of the random factor on the size.
        rotate: largest angle, in degrees, either way; half of the images are rotated.
        blur: blur half of the images.
        flip: mirror half of the images.
        fill: colour, uint8, of what lies outside of the image; its labels are ignored.
    """

    crop_size: int
    scale: tuple[float, float] = (0.5, 2.0)
    rotate: float = 10.0
    blur: bool = True
    flip: bool = True
    fill: Sequence[int] = (124, 116, 104)

    def __call__(
        self, image: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One random crop.

        Args:
            image: uint8 (3, H, W).
            mask: uint8 (H, W).
            generator: decides everything; the same state gives the same crop.

        Returns:
            uint8 (3, S, S) and (S, S) with S = `crop_size`.
        """
        u = torch.rand(_DRAWS, generator=generator, dtype=torch.float64).tolist()
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * u[0]
        angle = self.rotate * (2 * u[1] - 1) if u[2] < 0.5 else 0.0
        height, width = image.shape[-2:]
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        start = self._start(scaled[0], u[3]), self._start(scaled[1], u[4])
        image, mask = self.cut(
            tv_tensors.Image(image), tv_tensors.Mask(mask), scaled=scaled, start=start, angle=angle
        )
        if self.blur and u[5] < 0.5:
            image = F.gaussian_blur(image, BLUR_KERNEL, BLUR_SIGMA)
        if self.flip and u[6] < 0.5:
            image, mask = F.horizontal_flip(image), F.horizontal_flip(mask)
        return image, mask

    def _start(self, length: int, x: float) -> int:
        """Where the crop begins: anywhere inside, or around an image that is smaller."""
        room = length - self.crop_size
        return min(room, 0) + math.floor(x * (abs(room) + 1))

    def cut(
        self,
        image: tv_tensors.Image,
        mask: tv_tensors.Mask,
        *,
        scaled: tuple[int, int],
        start: tuple[int, int],
        angle: float,
    ) -> tuple[Tensor, Tensor]:
        """The crop that begins at `start` of the image of size `scaled`, rotated by `angle`."""
        half = self.crop_size / 2
        reach = half + _MARGIN
        if angle:
            radians = math.radians(abs(angle))
            reach = half * (math.sin(radians) + math.cos(radians)) + _MARGIN
        middle = scaled[0] / 2, scaled[1] / 2
        centre = _rotated_back((start[0] + half, start[1] + half), middle, angle)
        (rows, y), (columns, x) = (
            _Window.around(at, reach, full, before)
            for at, full, before in zip(centre, scaled, image.shape[-2:], strict=True)
        )
        size = [rows.scaled, columns.scaled]
        image = F.resize(_window(image, rows, columns, self.fill), size, antialias=True)
        mask = _resize_mask(_window(mask, rows, columns, [IGNORE]), size)
        if angle:
            bilinear, about = InterpolationMode.BILINEAR, [x, y]
            image = F.rotate(image, angle, bilinear, center=about, fill=list(self.fill))
            mask = F.rotate(mask, angle, center=about, fill=IGNORE)
        box = [round(y - half), round(x - half), self.crop_size, self.crop_size]
        return F.crop(image, *box), F.crop(mask, *box)


def _rotated_back(point: Point, about: Point, angle: float) -> Point:
    """Where `point` comes from in a rotation of `angle` degrees, counter-clockwise as seen."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    y, x = point[0] - about[0], point[1] - about[1]
    return about[0] + x * sin + y * cos, about[1] + x * cos - y * sin


@dataclass(frozen=True)
class _Window:
    """Along one side: source pixels from `start` to `stop`, and their number once scaled."""

    start: int
    stop: int
    scaled: int

    @staticmethod
    def around(centre: float, reach: float, full: int, before: int) -> tuple[_Window, float]:
        """The window that holds `centre` +- `reach` of a side scaled from `before` to `full`.

        Returns:
            The window, and the centre's place in it once scaled.
        """
        factor = full / before
        start = math.floor((centre - reach) / factor)
        stop = math.ceil((centre + reach) / factor)
        window = _Window(start, stop, round((stop - start) * factor))
        return window, (centre / factor - start) / (stop - start) * window.scaled


def _window(image: Tensor, rows: _Window, columns: _Window, fill: Sequence[int]) -> Tensor:
    """The window's pixels, (..., rows, columns); `fill`, one value a channel, outside."""
    height, width = image.shape[-2:]
    top, bottom = max(rows.start, 0), min(rows.stop, height)
    left, right = max(columns.start, 0), min(columns.stop, width)
    inside = F.crop(image, top, left, max(bottom - top, 0), max(right - left, 0))
    if inside.shape[-2:] == (rows.stop - rows.start, columns.stop - columns.start):
        return inside
    shape = (*image.shape[:-2], rows.stop - rows.start, columns.stop - columns.start)
    colour = torch.tensor(fill, dtype=image.dtype).view(*image.shape[:-2], 1, 1)
    canvas = colour.expand(shape).clone()
    if inside.numel():
        top, left = top - rows.start, left - columns.start
        bottom, right = bottom - rows.start, right - columns.start
        canvas[..., top:bottom, left:right] = inside
    return tv_tensors.wrap(canvas, like=image)


def _resize_mask(mask: Tensor, size: list[int]) -> tv_tensors.Mask:
    """As v2 does, but by pixel centres, which is how images are resized."""
    exact = InterpolationMode.NEAREST_EXACT
    return tv_tensors.Mask(F.resize_image(mask.as_subclass(Tensor)[None], size, exact)[0])
