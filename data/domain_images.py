"""Image files of any size in memory, and random crops of them, a batch at a time."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data.errors import quoted
from data.image_files import UNREADABLE, open_image, to_rgb
from data.randomness import sample_uniform

__all__ = ["centre_crop", "crop_and_flip", "read_images"]

LISTED = 3
# Aspect ratios of a random resized crop, as torchvision draws them.
RATIO = (3 / 4, 4 / 3)


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
        first = ", ".join(bad[i] for i in sorted(bad)[:LISTED])
        more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise ValueError(
            f"Expected every file to be a readable image, but got {first}{more}: restore or "
            "delete them."
        )
    return images, hashlib.sha256(b"".join(digests)).hexdigest()


def _decode(content: bytes, size: int) -> Tensor:
    # The stream has no file name, and the error message then needs none of its own.
    with open_image(io.BytesIO(content)) as image:
        image = to_rgb(image)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle (B, C, size, size) of `images`."""
    top, left = ((side - size) // 2 for side in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]


def crop_and_flip(
    images: Tensor, index: Tensor, *, seed: int, size: int, min_area: float = 1.0
) -> Tensor:
    """A random crop of each image, flipped with probability 1/2, per sample, in batch.

    Args:
        images: uint8 (B, C, H, W).
        index: int64 (B,) of the samples; with `seed` it decides what happens to each.
        seed: of run and step.
        size: height and width of the crop.
        min_area: 1 crops `size` x `size` pixels; below it, a box of an area uniform in
            [min_area, 1] of the image and an aspect ratio in [3/4, 4/3] is resized to them, as by
            torchvision's RandomResizedCrop (bilinear; a side too long is cut, not drawn again).

    Returns:
        uint8 (B, C, size, size).
    """
    batch, _, height, width = images.shape
    uniform = sample_uniform(seed, index.to(images.device), 5)
    if min_area < 1:
        area = (min_area + (1 - min_area) * uniform[:, 0]) * height * width
        low, high = (math.log(ratio) for ratio in RATIO)
        ratio = (low + (high - low) * uniform[:, 1]).exp()
        box_height = (area / ratio).sqrt().round().clamp(1, height)
        box_width = (area * ratio).sqrt().round().clamp(1, width)
    else:
        box_height = box_width = torch.full_like(uniform[:, 0], size)
    top = (uniform[:, 2] * (height - box_height + 1)).floor()
    left = (uniform[:, 3] * (width - box_width + 1)).floor()
    flip = torch.where(uniform[:, 4] < 0.5, -1.0, 1.0)
    rows = _positions(top, box_height, torch.ones_like(flip), size, height)
    columns = _positions(left, box_width, flip, size, width)
    grid = torch.stack(
        [
            columns[:, None, :].expand(batch, size, size),
            rows[:, :, None].expand(batch, size, size),
        ],
        dim=-1,
    )
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8)


def _positions(start: Tensor, length: Tensor, flip: Tensor, size: int, full: int) -> Tensor:
    """Where `size` outputs lie in a side of `full` pixels: (B, size) in grid_sample's [-1, 1]."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size - 0.5
    centre = start + length / 2
    pixels = centre[:, None] + flip[:, None] * steps * length[:, None]
    return 2 * pixels / full - 1
