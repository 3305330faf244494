"""The operations of data.augmentations.operations in Pillow itself, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from data.augmentations.geometry import Resampling

__all__ = ["augmix_value", "fixmatch_value", "pil_affine", "pil_cutout", "pil_operation"]

FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
TONAL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, value: image,
    "autocontrast": lambda image, value: ImageOps.autocontrast(image),
    "equalize": lambda image, value: ImageOps.equalize(image),
    "invert": lambda image, value: ImageOps.invert(image),
    "posterize": lambda image, value: ImageOps.posterize(image, int(value)),
    "solarize": lambda image, value: ImageOps.solarize(image, int(value)),
    "brightness": lambda image, value: ImageEnhance.Brightness(image).enhance(value),
    "color": lambda image, value: ImageEnhance.Color(image).enhance(value),
    "contrast": lambda image, value: ImageEnhance.Contrast(image).enhance(value),
    "sharpness": lambda image, value: ImageEnhance.Sharpness(image).enhance(value),
}
AFFINE: dict[str, Callable[[float], tuple[float, ...]]] = {
    "shear_x": lambda value: (1, value, 0, 0, 1, 0),
    "shear_y": lambda value: (1, 0, 0, value, 1, 0),
    "translate_x": lambda value: (1, 0, value, 0, 1, 0),
    "translate_y": lambda value: (1, 0, 0, 0, 1, value),
}


def pil_affine(
    image: Image.Image, matrix: tuple[float, ...], fill: int, resampling: Resampling
) -> Image.Image:
    """`Image.transform` with AFFINE."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=FILTERS[resampling],
        fillcolor=(fill,) * 3,
    )


def pil_operation(
    image: Image.Image,
    name: str,
    value: float,
    *,
    fill: int = 0,
    resampling: Resampling = "bilinear",
) -> Image.Image:
    """One operation by its name in data.augmentations.operations."""
    if name == "rotate":
        return image.rotate(value, resample=FILTERS[resampling], fillcolor=(fill,) * 3)
    if name in AFFINE:
        return pil_affine(image, AFFINE[name](value), fill, resampling)
    return TONAL[name](image, value)


def pil_cutout(image: Image.Image, row: int, column: int, size: int, fill: int) -> Image.Image:
    """A square about (row, column); Pillow's rectangle includes its last row and column."""
    image, half = image.copy(), size // 2
    corners = (column - half, row - half, column + half - 1, row + half - 1)
    ImageDraw.Draw(image).rectangle(corners, (fill,) * 3)
    return image


def augmix_value(name: str, level: float, sign: int, pixels: int = 32) -> float:
    """AugMix's strengths, level from 0.1 to 10, as its released code has them."""
    if name == "posterize":
        return 4 - int(level * 4 / 10)
    if name == "solarize":
        return 256 - int(level * 256 / 10)
    if name == "rotate":
        return sign * int(level * 30 / 10)
    if name.startswith("shear"):
        return sign * level * 0.3 / 10
    return sign * int(level * (pixels / 3) / 10) if name.startswith("translate") else 0.0


def fixmatch_value(name: str, level: float, sign: int, pixels: int = 32) -> float:
    """FixMatch's ranges, level in [0, 1): table 12 of the paper."""
    if name in ("brightness", "color", "contrast", "sharpness"):
        return 0.05 + level * (0.95 - 0.05)
    if name == "posterize":
        return (4, 5, 6, 7, 8)[int(level * 5)]
    if name == "solarize":
        return 256 - int(level * 256)
    if name == "rotate":
        return sign * level * 30
    if name.startswith("shear"):
        return sign * level * 0.3
    return int(sign * level * 0.3 * pixels) if name.startswith("translate") else 0.0
