"""CrossNorm at the image: two photographs with exchanged RGB means and standard deviations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cnsn.functional import cross_norm
from data.files import UNREADABLE, open_image, to_rgb

__all__ = ["bundled_photographs", "exchanged", "read_photograph"]


def read_photograph(path: Path, longest: int = 640) -> Tensor:
    """RGB (1, 3, H, W) in [0, 1], the right way up, at most `longest` pixels on a side.

    Raises:
        ValueError: the file is no image that can be read.
    """
    try:
        with open_image(path) as file:
            image = ImageOps.exif_transpose(to_rgb(file))
    except UNREADABLE as error:
        raise ValueError(f"Expected {path} to be an image, but got: {error}.") from error
    return _tensor(image, longest)


def _tensor(image: Image.Image, longest: int) -> Tensor:
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def bundled_photographs(longest: int = 640) -> tuple[Tensor, Tensor]:
    """A temple and a flower, which scikit-learn brings with it (CC BY 2.0, see its README.txt)."""
    from sklearn.datasets import load_sample_image

    china, flower = (
        _tensor(Image.fromarray(load_sample_image(name)), longest)
        for name in ("china.jpg", "flower.jpg")
    )
    return china, flower


def exchanged(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with the other's RGB means and standard deviations; values may leave [0, 1]."""
    return cross_norm(first, second), cross_norm(second, first)
