"""Corruptions of small colour images at five severities, with CIFAR-C's published constants.

Source of names and constants: Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", generator parameters of make_cifar_c in
https://github.com/hendrycks/robustness. So far the ones in `MADE_HERE` can be generated; all names
can be read from published arrays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.randomness import derive_seed

__all__ = ["ALL_CORRUPTIONS", "CORRUPTIONS", "EXTRA_CORRUPTIONS", "MADE_HERE", "corrupt"]

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
ALL_CORRUPTIONS = CORRUPTIONS + EXTRA_CORRUPTIONS

GAUSSIAN_NOISE = (0.04, 0.06, 0.08, 0.09, 0.10)
SPECKLE_NOISE = (0.06, 0.1, 0.12, 0.16, 0.2)
SHOT_NOISE = (500.0, 250.0, 100.0, 75.0, 50.0)
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)


def _gaussian_noise(image: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return image + GAUSSIAN_NOISE[level] * torch.randn(image.shape, generator=generator)


def _speckle_noise(image: Tensor, level: int, generator: torch.Generator) -> Tensor:
    return image * (1 + SPECKLE_NOISE[level] * torch.randn(image.shape, generator=generator))


def _shot_noise(image: Tensor, level: int, generator: torch.Generator) -> Tensor:
    photons = SHOT_NOISE[level]
    return torch.poisson(image * photons, generator=generator) / photons


def _contrast(image: Tensor, level: int, generator: torch.Generator) -> Tensor:
    mean = image.mean((1, 2), keepdim=True)
    return (image - mean) * CONTRAST[level] + mean


def _brightness(image: Tensor, level: int, generator: torch.Generator) -> Tensor:
    """Adds to the V of HSV: scales the colour so that its largest channel grows by the amount."""
    value = image.amax(0, keepdim=True)
    raised = (value + BRIGHTNESS[level]).clamp(0, 1)
    return torch.where(value > 0, image * (raised / value.clamp_min(1e-12)), raised)


_FUNCTIONS = {
    "gaussian_noise": _gaussian_noise,
    "speckle_noise": _speckle_noise,
    "shot_noise": _shot_noise,
    "contrast": _contrast,
    "brightness": _brightness,
}
MADE_HERE = tuple(_FUNCTIONS)


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupt images; image i depends on (its pixels, name, severity, seed, i) alone.

    Args:
        images: uint8 (B, 3, H, W).
        name: one of `MADE_HERE`.
        severity: 1 to 5.
        seed: of the noise.

    Returns:
        uint8 (B, 3, H, W), truncated as in the published arrays.

    Raises:
        ValueError: for another name, severity, dtype or shape.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"Expected `name` to be one of {MADE_HERE}, but got {name!r}.")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"Expected `severity` to be from 1 to 5, but got {severity}.")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"Expected `images` to be uint8 (B, 3, H, W), but got {images.dtype} "
            f"{tuple(images.shape)}."
        )
    out = torch.empty_like(images)
    for i, image in enumerate(images):
        generator = torch.Generator().manual_seed(derive_seed(seed, name, severity, i))
        made = _FUNCTIONS[name](image.float() / 255, severity - 1, generator)
        out[i] = (made.clamp(0, 1) * 255).to(torch.uint8)
    return out
