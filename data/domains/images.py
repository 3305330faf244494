"""Image files of any size in memory, and random crops of them, a batch at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.errors import listed, quoted
from data.files import UNREADABLE, open_image, to_rgb

__all__ = [
    "as_square",
    "read_images",
]


def read_images(paths: Sequence[Path], size: int, threads: int = 1) -> tuple[Tensor, str]:
    """Decode and resize all files, so that a bad one is known before anything is trained.

    Args:
        paths: image files.
        size: height and width that each is resized to, without regard to its aspect ratio, as is
            usual on these sets; an image that has them already stays as it is.
        threads: that read at once.

    Returns:
        Images uint8 (N, 3, size, size), and the SHA-256 of the files' contents.

    Raises:
        ValueError: files that are no readable images; the first of them are named.
    """
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    bad: dict[int, str] = {}

    def read(i: int) -> bytes:
        if not paths[i].is_file():  # A pipe would be waited for without end.
            bad[i] = f"{paths[i]} (it is no file)"
            return b""
        content = paths[i].read_bytes()
        try:
            images[i] = _decode(content, size)
        except UNREADABLE as error:
            bad[i] = f"{paths[i]} ({quoted(error)})"
        return hashlib.sha256(content).digest()

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        digests = list(pool.map(read, range(len(paths))))
    if bad:
        first = listed([bad[i] for i in sorted(bad)], 3)
        raise ValueError(
            f"Expected every file to be a readable image, but got {first}: restore or delete them."
        )
    return images, hashlib.sha256(b"".join(digests)).hexdigest()


def _decode(content: bytes, size: int) -> Tensor:
    # The stream has no file name, and the error message then needs none of its own.
    with open_image(io.BytesIO(content)) as image:
        return as_square(to_rgb(image), size)


def as_square(image: Image.Image, size: int) -> Tensor:
    """An RGB image resized to uint8 (3, size, size), without regard to its aspect ratio."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
