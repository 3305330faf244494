"""The 15 corruptions of CIFAR-10-C and its 4 extra ones, at five severities, in batches.

Names and constants: Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", generator make_cifar_c of https://github.com/hendrycks/robustness.
Image i of a call depends on its pixels, name, severity, seed and number alone. All is computed in
float64, where what processors round differently is too small for a pixel to show.

Where this differs from the generator: random numbers (torch's instead of NumPy's); all six frost
textures are drawn (there, the last never is); sizes given in pixels of a 32x32 image scale with the
image where the generator ties them to the size (elastic), and so do frost's textures from 64 pixels
on; glass blur copies the chosen neighbour over the pixel, which is what the generator's exchange of
two views does; spatter's edge maps come from SciPy's Sobel filter and distance transform instead of
OpenCV's Canny.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from data.corruptions.fields import (
    disk_kernel,
    gaussian_blur,
    motion_blur,
    plasma,
    sample_bilinear,
    zoom,
)
from data.randomness import derive_seed, sample_normal

__all__ = ["ALL_CORRUPTIONS", "CORRUPTIONS", "EXTRA_CORRUPTIONS", "corrupt"]

GREY = (0.299, 0.587, 0.114)
MIN_SIZE = 16
WHOLE = 1e-3  # added before truncation: whole numbers must survive the way through [0, 1]


class Draws:
    """Random numbers of each image of a batch, from a generator of its own."""

    def __init__(self, seed: int, name: str, severity: int, index: range) -> None:
        self.generators = [
            torch.Generator().manual_seed(derive_seed(seed, name, severity, i)) for i in index
        ]

    def normal(self, *shape: int) -> Tensor:
        return sample_normal(self.generators, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.stack([torch.rand(shape, generator=g) for g in self.generators])
        return low + (high - low) * drawn.double()

    def integers(self, high: int, *shape: int) -> Tensor:
        drawn = [torch.randint(high, shape, generator=g) for g in self.generators]
        return torch.stack(drawn)


def gaussian_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    sigma = (0.04, 0.06, 0.08, 0.09, 0.10)[level]
    return x + sigma * draws.normal(*x.shape[1:])


def shot_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    photons = (500.0, 250.0, 100.0, 75.0, 50.0)[level]
    counts = [torch.poisson(i * photons, g) for i, g in zip(x, draws.generators, strict=True)]
    return torch.stack(counts) / photons


def impulse_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    u = draws.uniform(*x.shape[1:])
    return torch.where(u < amount, (u < amount / 2).to(x.dtype), x)


def speckle_noise(x: Tensor, level: int, draws: Draws) -> Tensor:
    sigma = (0.06, 0.1, 0.12, 0.16, 0.2)[level]
    return x + x * sigma * draws.normal(*x.shape[1:])


def gaussian(x: Tensor, level: int, draws: Draws) -> Tensor:
    return gaussian_blur(x, (0.4, 0.6, 0.7, 0.8, 1.0)[level])


def defocus_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    radius, alias_blur = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[level]
    kernel = disk_kernel(radius, alias_blur)
    border = len(kernel) // 2
    padded = F.pad(x, [border] * 4, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, kernel[None, None]).view_as(x)


def glass_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    sigma, reach, rounds = (
        (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2),
    )[level]  # fmt: skip
    x = (gaussian_blur(x, sigma) * 255 + WHOLE).floor() / 255
    batch, _, height, width = x.shape
    offset = draws.integers(2 * reach, rounds, height, width, 2) - reach
    pixels = x.permute(2, 3, 0, 1).contiguous()
    sample = torch.arange(batch)
    for turn in range(rounds):
        # One after the other: a pixel's new value may be taken by the next one.
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = offset[:, turn, row - 1, column - 1].unbind(-1)
                pixels[row, column] = pixels[row + down, column + right, sample]
    return gaussian_blur(pixels.permute(2, 3, 0, 1), sigma)


def motion(x: Tensor, level: int, draws: Draws) -> Tensor:
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[level]
    return motion_blur(x, radius, sigma, draws.uniform(low=-45.0, high=45.0))


def zoom_blur(x: Tensor, level: int, draws: Draws) -> Tensor:
    # Rounding puts the end into the first two ranges, as in the generator.
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[level], 0.01).tolist()
    total = sum((zoom(x, factor) for factor in factors), x)
    return total / (len(factors) + 1)


def snow(x: Tensor, level: int, draws: Draws) -> Tensor:
    loc, scale, factor, threshold, radius, sigma, share = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[level]
    flakes = zoom(loc + scale * draws.normal(1, *x.shape[2:]), factor)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = (flakes * 255).floor() / 255
    flakes = motion_blur(flakes, radius, sigma, draws.uniform(low=-135.0, high=-45.0))
    grey = (x * x.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    whiter = share * x + (1 - share) * torch.maximum(x, grey * 1.5 + 0.5)
    return whiter + flakes + flakes.flip(2, 3)


@cache
def frost_textures(size: int) -> tuple[Tensor, ...]:
    """The six textures as (3, H, W) in [0, 1] for images of `size`; see data/frost/NOTICE.

    They are of CIFAR's scale; images that do not fit into them get them enlarged in proportion.
    """
    paths = sorted((Path(__file__).parent / "frost").glob("*.png"))
    arrays = [np.array(Image.open(path).convert("RGB")) for path in paths]
    textures = [torch.from_numpy(a).permute(2, 0, 1).double() / 255 for a in arrays]
    if size > min(min(texture.shape[1:]) for texture in textures):
        larger = [F.interpolate(t[None], scale_factor=size / 32, mode="bilinear") for t in textures]
        textures = [texture[0] for texture in larger]
    return tuple(textures)


def frost(x: Tensor, level: int, draws: Draws) -> Tensor:
    keep, add = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[level]
    height, width = x.shape[2:]
    textures = frost_textures(max(height, width))
    crops = []
    for which, down, right in draws.uniform(3).tolist():
        texture = textures[int(which * len(textures))]
        top = int(down * (texture.shape[1] - height))
        left = int(right * (texture.shape[2] - width))
        crops.append(texture[:, top : top + height, left : left + width])
    return keep * x + add * torch.stack(crops)


def fog(x: Tensor, level: int, draws: Draws) -> Tensor:
    amount, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    height, width = x.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    maps = plasma(size, decay, draws.uniform(size * size, low=-1.0))
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * maps[:, None, :height, :width]) * most / (most + amount)


def _hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, saturation and the colour's position between grey and the pure hue, (B, ., H, W)."""
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    saturation = torch.where(value > 0, chroma / value.clamp_min(1e-12), 0.0)
    pure = torch.where(chroma > 0, (value - x) / chroma.clamp_min(1e-12), 0.0)
    return value, saturation, pure


def _from_hsv(value: Tensor, saturation: Tensor, pure: Tensor) -> Tensor:
    return value * (1 - saturation * pure)


def brightness(x: Tensor, level: int, draws: Draws) -> Tensor:
    value, saturation, pure = _hsv(x)
    value = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[level]).clamp(0, 1)
    return _from_hsv(value, saturation, pure)


def saturate(x: Tensor, level: int, draws: Draws) -> Tensor:
    factor, offset = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))[level]
    value, saturation, pure = _hsv(x)
    # A grey pixel has no hue: the reference's conversion takes it as red.
    red = x.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    pure = torch.where(saturation > 0, pure, red)
    return _from_hsv(value, (saturation * factor + offset).clamp(0, 1), pure)


def contrast(x: Tensor, level: int, draws: Draws) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[level] + mean


def elastic_transform(x: Tensor, level: int, draws: Draws) -> Tensor:
    batch, _, height, width = x.shape
    alpha, sigma, shift = (
        (0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[level]  # fmt: skip
    side = min(height, width)
    third = side // 3
    across, down = width // 2, height // 2
    corners = torch.tensor(
        [[across + third, down + third], [across + third, down - third],
         [across - third, down - third]], dtype=torch.float64,
    )  # fmt: skip
    moved = corners + draws.uniform(3, 2, low=-shift * side, high=shift * side)
    # Output position -> input position: the affine map that takes the moved corners back.
    one = torch.ones(batch, 3, 1, dtype=torch.float64)
    back = torch.linalg.solve(torch.cat([moved, one], 2), corners.expand(batch, -1, -1))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns, rows, torch.ones_like(rows)], -1).double().view(1, -1, 3)
    source = (points @ back).view(batch, height, width, 2)
    x = sample_bilinear(x, source[..., 1], source[..., 0], edge=False)
    field = draws.uniform(2, height, width, low=-1.0)
    field = gaussian_blur(field, sigma * side, truncate=3.0, mode="reflect") * alpha * side
    return sample_bilinear(x, rows + field[:, 1], columns + field[:, 0], edge=True)


def _by_image(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    arrays = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = [np.asarray(change(Image.fromarray(array))) for array in arrays]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).to(x.dtype) / 255


def pixelate(x: Tensor, level: int, draws: Draws) -> Tensor:
    factor = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    width, height = x.shape[3], x.shape[2]
    small = (int(width * factor), int(height * factor))
    box = Image.Resampling.BOX
    return _by_image(x, lambda image: image.resize(small, box).resize((width, height), box))


def jpeg_compression(x: Tensor, level: int, draws: Draws) -> Tensor:
    quality = (80, 65, 58, 50, 40)[level]

    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _by_image(x, compressed)


def spatter(x: Tensor, level: int, draws: Draws) -> Tensor:
    loc, scale, sigma, threshold, strength, mud = (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    )[level]
    liquid = gaussian_blur(loc + scale * draws.normal(1, *x.shape[2:]), sigma)
    liquid = torch.where(liquid < threshold, 0.0, liquid)
    if mud:
        mask = gaussian_blur((liquid > threshold).to(x.dtype), strength)
        mask = torch.where(mask < 0.8, 0.0, mask)
        colour = x.new_tensor([63.0, 42.0, 20.0]).view(1, 3, 1, 1) / 255
        return x * (1 - mask) + colour * mask
    shading = torch.from_numpy(np.stack([_water_shading(m) for m in liquid[:, 0].numpy()]))
    mask = liquid * shading[:, None]
    mask = mask / mask.amax((1, 2, 3), keepdim=True).clamp_min(1e-12) * strength
    colour = x.new_tensor([175.0, 238.0, 238.0]).view(1, 3, 1, 1) / 255
    return x + mask * colour


def _water_shading(liquid: np.ndarray) -> np.ndarray:
    """Light and shade around the edges of drops, (H, W) of 0 to 255."""
    level = liquid.clip(0, 1) * 255
    slope = np.hypot(ndimage.sobel(level, 0), ndimage.sobel(level, 1))
    distance = np.minimum(ndimage.distance_transform_edt(slope < 150), 20)
    smooth = ndimage.uniform_filter(distance, 3, mode="mirror")
    rank = np.searchsorted(np.sort(smooth.ravel()), smooth, side="right") / smooth.size
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    shaded = ndimage.correlate(rank * 255, emboss, mode="mirror").clip(0, 255)
    return ndimage.uniform_filter(shaded, 3, mode="mirror")


_FUNCTIONS: dict[str, Callable[[Tensor, int, Draws], Tensor]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian,
    "spatter": spatter,
    "saturate": saturate,
}
ALL_CORRUPTIONS = tuple(_FUNCTIONS)
CORRUPTIONS, EXTRA_CORRUPTIONS = ALL_CORRUPTIONS[:15], ALL_CORRUPTIONS[15:]


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupt a batch of images.

    Args:
        images: uint8 (B, 3, H, W), from 16x16 on.
        name: one of `ALL_CORRUPTIONS`.
        severity: 1 to 5.
        seed: of everything random.
        first: number of the first image in its set; image i draws as number ``first + i``.

    Returns:
        uint8 (B, 3, H, W), truncated towards zero as in the published arrays.

    Raises:
        ValueError: for an unknown name or severity, another dtype or shape, or images too small.
    """
    if name not in _FUNCTIONS:
        choices = ", ".join(ALL_CORRUPTIONS)
        raise ValueError(f"Expected `name` to be one of {choices}, but got {name!r}.")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"Expected `severity` to be from 1 to 5, but got {severity}.")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Expected `images` to be uint8 (B, 3, H, W), but got {images.dtype} "
            f"{tuple(images.shape)}."
        )
    if min(images.shape[2:]) < MIN_SIZE:
        size = tuple(images.shape[2:])
        raise ValueError(f"Expected images of at least {MIN_SIZE}x{MIN_SIZE}, but got {size}.")
    draws = Draws(seed, name, severity, range(first, first + len(images)))
    made = _FUNCTIONS[name](images.double() / 255, severity - 1, draws)
    return (made.clamp(0, 1) * 255 + WHOLE).to(torch.uint8)
