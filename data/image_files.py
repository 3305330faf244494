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

__all__ = ["UNREADABLE", "open_image", "to_rgb"]

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


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """The image, whose pixels are not decoded yet.

    Raises:
        OSError: there is no such file, or it is no image of the formats that data sets have.
        Image.DecompressionBombError: it has more pixels than any image of a data set.
    """
    return Image.open(source, formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Red, green and blue of 8 bits each; of 16 bits a pixel, the upper 8.

    Raises:
        ValueError: it is grey of 32 bits, of which Pillow would cut all above 255.
    """
    if image.mode.startswith("I;16"):  # Pillow would cut these, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, whose range is not known: save it with 8")
    return image.convert("RGB")
