"""Open image files of unknown origin.

Pillow tells a format by content, and knows dozens: it would start Ghostscript for a file that says
it is EPS, whatever its name. Data sets of photographs and labels need the few below.

The largest image that is read is Pillow's own limit, 179 million pixels
(``PIL.Image.MAX_IMAGE_PIXELS`` warns at half of it): a file of some kilobytes may declare more.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

__all__ = ["UNREADABLE", "open_image"]

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
