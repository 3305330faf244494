"""Open image files of unknown origin.

Pillow tells a format by content, and knows dozens: it would start Ghostscript for a file that says
it is EPS, whatever its name. Data sets of photographs and labels need the few below.

The largest image that is read is Pillow's own limit, 179 million pixels
(``PIL.Image.MAX_IMAGE_PIXELS`` warns at half of it): a file of some kilobytes may declare more.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ["UNREADABLE", "check_depth", "is_hidden", "open_image", "to_rgb"]

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")

# What Pillow raises at damaged or hostile files, here and when they are decoded.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    Image.DecompressionBombError,
    UnidentifiedImageError,
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is the system's own.

    macOS leaves `._<name>` beside files on other file systems, and a folder of them in its zips.
    """
    return name.startswith(".") or name == "__MACOSX"


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """The image, whose pixels are not decoded yet.

    Raises:
        OSError: there is no such file, or it is no image of the formats that data sets have.
        Image.DecompressionBombError: it has more pixels than any image of a data set.
    """
    return Image.open(source, formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Red, green and blue of 8 bits each; of 16 bits a channel, the upper 8.

    Args:
        image: from :func:`open_image`, not decoded yet.

    Raises:
        ValueError: it is grey of 32 bits, of which Pillow would cut all above 255, or of 16 bits of
            which the upper four are not used.
    """
    deep = _has_16_bits(image)
    if image.mode.startswith("I;16"):  # Pillow would cut these, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, whose range is not known: save it with 8")
    image = image.convert("RGB")
    if deep:
        check_depth(max(high for _, high in image.getextrema()))  # type: ignore[misc]
    return image


def check_depth(brightest: int) -> None:
    """Refuse a picture of 12 bits or fewer in a file of 16, which would be nearly black.

    Args:
        brightest: the upper 8 bits of its largest value.

    Raises:
        ValueError: it is one.
    """
    if brightest < 1 << (12 - 8):
        raise ValueError(
            "it has 16 bits a channel, but all its values are below 4,096, as in a picture of 12 "
            "bits, and it would be nearly black: save it with 8 bits"
        )


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel, of which Pillow keeps the upper 8 of colours."""
    every = (args for *_, args in getattr(image, "tile", ()))
    kinds = [str(args[0] if isinstance(args, tuple) and args else args) for args in every]
    # Of a BMP, "BGR;16" is a pixel of 16 bits in all.
    return any(";16" in kind and not kind.startswith("BGR") for kind in kinds)
