"""The operations of data.tensor_ops in Pillow itself, one image at a time: what they stand for."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from data.tensor_ops import Resampling

__all__ = ["pil_affine", "pil_cutout", "pil_operation"]

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
    """One operation by its name in data.tensor_ops."""
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
