"""Filters and random fields that the corruptions are made of, for batches (B, C, H, W)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "disk_kernel",
    "gaussian_blur",
    "motion_blur",
    "plasma",
    "sample_bilinear",
    "zoom",
]


def _pad(x: Tensor, radius: int, dim: int, mode: str) -> Tensor:
    """Extend one dimension: "nearest" repeats the edge, "reflect" mirrors it with the edge."""
    size = x.shape[dim]
    place = torch.arange(-radius, size + radius)
    if mode == "nearest":
        place = place.clamp(0, size - 1)
    else:
        place = place % (2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
    return x.index_select(dim, place)


def gaussian_blur(
    x: Tensor, sigma: float, *, truncate: float = 4.0, mode: str = "nearest"
) -> Tensor:
    """Separable Gaussian filter as scipy.ndimage.gaussian_filter has it, over H and W.

    Args:
        x: (B, C, H, W).
        sigma: in pixels; 0 returns `x`.
        truncate: the kernel ends at ``int(truncate * sigma + 0.5)`` pixels.
        mode: "nearest" or "reflect", scipy's names.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    place = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for dim in (2, 3):
        padded = _pad(x, radius, dim, mode)
        size = x.shape[dim]
        # A sum of shifted slices beats a depthwise convolution on small images.
        x = sum(
            (padded.narrow(dim, i, size) * weight for i, weight in enumerate(kernel.tolist())),
            torch.zeros_like(x),
        )
    return x


def disk_kernel(radius: float, alias_blur: float) -> Tensor:
    """A disk of `radius` smoothed by a 3x3 Gaussian of `alias_blur`, summing to 1, odd square."""
    reach = int(radius) + 1
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).double()
    smooth = torch.exp(-(place.new_tensor([-1.0, 0.0, 1.0]) ** 2) / (2 * alias_blur**2))
    smooth = smooth / smooth.sum()
    kernel = (smooth[:, None] * smooth)[None, None]
    return F.conv2d((disk / disk.sum())[None, None], kernel, padding=1)[0, 0]


def motion_blur(x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """ImageMagick's motion blur: a one-sided Gaussian along `angle`, edges repeated.

    Args:
        x: (B, C, H, W).
        radius: in pixels; the kernel has 2 * radius + 1 taps.
        sigma: of the Gaussian, in taps.
        angle: (B,) in degrees.
    """
    batch, _, height, width = x.shape
    taps = 2 * radius + 1
    weight = torch.exp(-(torch.arange(taps, dtype=torch.float64) ** 2) / (2 * sigma**2))
    weight = weight / weight.sum()
    radian = torch.deg2rad(angle.double())
    rows, columns = torch.arange(height), torch.arange(width)
    out = torch.zeros_like(x).permute(0, 2, 3, 1)
    sample = torch.arange(batch)[:, None, None]
    last = x.permute(0, 2, 3, 1).contiguous()
    for tap, share in enumerate(weight.tolist()):
        down = torch.ceil(tap * torch.sin(radian) - 0.5).long()
        right = torch.ceil(tap * torch.cos(radian) - 0.5).long()
        row = (rows + down[:, None]).clamp(0, height - 1)
        column = (columns + right[:, None]).clamp(0, width - 1)
        out = out + share * last[sample, row[:, :, None], column[:, None, :]]
    return out.permute(0, 3, 1, 2)


def zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the centre by `factor` and crop to the size of `x`, as scipy's linear zoom does."""
    height, width = x.shape[2:]
    crop = [math.ceil(size / factor) for size in (height, width)]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    centre = x[:, :, top : top + crop[0], left : left + crop[1]]
    size = [round(c * factor) for c in crop]
    large = F.interpolate(centre, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return large[:, :, top : top + height, left : left + width]


def plasma(size: int, decay: float, uniform: Tensor) -> Tensor:
    """Diamond-square fractals in [0, 1].

    Args:
        size: a power of two.
        decay: by which the roughness falls from each scale to the next.
        uniform: in [-1, 1], of shape (B, size * size): one number a point.

    Returns:
        (B, size, size).
    """
    maps = torch.zeros(len(uniform), size, size, dtype=torch.float64)
    wibble, step, used = 100.0, size, 0

    def perturbed(total: Tensor) -> Tensor:
        nonlocal used
        count = total[0].numel()
        noise = uniform[:, used : used + count].reshape(total.shape)
        used += count
        return total / 4 + wibble * wibble * noise

    while step >= 2:
        half = step // 2
        corner = maps[:, ::step, ::step]
        pairs = corner + corner.roll(-1, 1)
        maps[:, half::step, half::step] = perturbed(pairs + pairs.roll(-1, 2))
        centre = maps[:, half::step, half::step]
        above = centre + centre.roll(1, 1) + corner + corner.roll(-1, 2)
        maps[:, ::step, half::step] = perturbed(above)
        beside = centre + centre.roll(1, 2) + corner + corner.roll(-1, 1)
        maps[:, half::step, ::step] = perturbed(beside)
        step, wibble = half, wibble / decay
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True)


def sample_bilinear(x: Tensor, rows: Tensor, columns: Tensor, *, edge: bool) -> Tensor:
    """Bilinear samples of `x` (B, C, H, W) at real positions (B, H', W'), in pixels.

    Args:
        x: images.
        rows: positions down.
        columns: positions to the right.
        edge: outside, mirror with the edge pixel doubled (scipy's "reflect"); otherwise without
            it (OpenCV's BORDER_REFLECT_101).
    """
    batch, _, height, width = x.shape
    last = x.permute(0, 2, 3, 1).contiguous()
    sample = torch.arange(batch)[:, None, None]

    def inside(place: Tensor, size: int) -> Tensor:
        period = 2 * size if edge else 2 * size - 2
        place = place % period
        return torch.where(place < size, place, period - edge - place)

    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[..., None].to(x.dtype), (columns - left)[..., None].to(x.dtype)
    row = [inside(top.long() + i, height) for i in (0, 1)]
    column = [inside(left.long() + i, width) for i in (0, 1)]
    upper = last[sample, row[0], column[0]] * (1 - right) + last[sample, row[0], column[1]] * right
    lower = last[sample, row[1], column[0]] * (1 - right) + last[sample, row[1], column[1]] * right
    return (upper * (1 - down) + lower * down).permute(0, 3, 1, 2)
