"""Batches of images that are decoded when they are needed: by the loader's workers.

Training crops a random box, resizes it and flips it (Szegedy et al. 2015), evaluation resizes the
shorter side and crops the middle: torchvision's standard transforms. What a crop is depends on
(seed, epoch, index) alone, whichever worker makes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tf

from data.errors import SampleError
from data.imagenet.folders import FolderImages
from data.images import Group
from data.loading import Batch
from data.randomness import derive_seed, sample_uniform

__all__ = ["FolderSets", "TrainingImages", "centre_square", "exact_square", "random_box"]

ATTEMPTS = 10  # boxes tried before the largest one in the middle is taken
DRAWS = 2 * ATTEMPTS + 3  # two a box, its place, and the flip
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def random_box(uniform: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
    """A random box of the image: area and shape as torchvision's RandomResizedCrop has them.

    Args:
        uniform: 22 numbers in [0, 1).
        height, width: of the image, in pixels.

    Returns:
        top, left, height, width: of 8 to 100 % of the area, with sides 3:4 to 4:3.
    """
    log_ratio = math.log(RATIO[0]), math.log(RATIO[1])
    for attempt in range(ATTEMPTS):
        area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * uniform[2 * attempt])
        share = uniform[2 * attempt + 1]
        ratio = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * share)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(uniform[2 * ATTEMPTS] * (height - h + 1))
            left = int(uniform[2 * ATTEMPTS + 1] * (width - w + 1))
            return top, left, h, w
    # An image too long or too high for them: its middle, as near to the range as it can be.
    if width < RATIO[0] * height:
        w, h = width, round(width / RATIO[0])
    elif width > RATIO[1] * height:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


class TrainingImages:
    """The images of a folder, each with a random crop of its own in every epoch.

    Args:
        images: of the training set.
        size: side of the square crops, in pixels.
        flip: mirror half of them.
        seed: of crops and flips.
    """

    def __init__(self, images: FolderImages, *, size: int, flip: bool, seed: int) -> None:
        self.images = images
        self.size = size
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, positions: list[int], epoch: int) -> Batch:
        """{"image": uint8 (B, 3, size, size), "label": (B,), "index": (B,)} for an epoch."""
        index = torch.as_tensor(positions)
        uniform = sample_uniform(derive_seed(self.seed, "crop", epoch), index, DRAWS).tolist()
        views = (self._view(p, own) for p, own in zip(positions, uniform, strict=True))
        label = torch.from_numpy(self.images.labels[positions])
        return {"image": _stacked(views, len(positions), self.size), "label": label, "index": index}

    def _view(self, position: int, uniform: list[float]) -> Image.Image:
        image = self.images.read(position)
        box = random_box(uniform, image.height, image.width)
        view = tf.resized_crop(image, *box, [self.size, self.size])
        return tf.hflip(view) if self.flip and uniform[-1] < 0.5 else view


Preparation = Callable[[Image.Image, str], Image.Image]


class FolderSets:
    """The conditions of a test behind one another, each a folder of images.

    Args:
        sets: the images of each condition, and what makes a square of `size` of one and its path.
        size: side of the images, in pixels.
    """

    def __init__(self, sets: dict[Group, tuple[FolderImages, Preparation]], size: int) -> None:
        self.groups = list(sets)
        self.size = size
        self._sets = list(sets.values())
        self._ends = np.cumsum([len(images) for images, _ in self._sets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def span(self, group: int) -> range:
        """The positions of a condition's images."""
        end = int(self._ends[group])
        return range(end - len(self._sets[group][0]), end)

    def __getitem__(self, positions: list[int] | Tensor) -> Batch:
        index = np.asarray(positions)
        group = np.searchsorted(self._ends, index, side="right")
        places = index - np.array([self.span(g).start for g in group], dtype=index.dtype)
        labels = [self._sets[g][0].labels[p] for g, p in zip(group, places, strict=True)]
        views = (self._view(g, p) for g, p in zip(group, places, strict=True))
        return {
            "image": _stacked(views, len(index), self.size),
            "label": torch.tensor(labels, dtype=torch.long),
            "group": torch.from_numpy(group),
            "index": torch.from_numpy(places).long(),
        }

    def _view(self, group: int, position: int) -> Image.Image:
        images, prepare = self._sets[group]
        return prepare(images.read(position), images.path(position))


def centre_square(image: Image.Image, path: str, *, resize: int, size: int) -> Image.Image:
    """Shorter side to `resize`, then the middle square of `size`."""
    return tf.center_crop(tf.resize(image, [resize]), [size, size])


def exact_square(image: Image.Image, path: str, *, size: int) -> Image.Image:
    """The image as it is, which must be a square of `size`: resizing would change a corruption."""
    if image.size != (size, size):
        raise SampleError(
            f"Expected the corrupted images to be {size}x{size}, but got "
            f"{image.width}x{image.height} in {path}: they are used as they are, so give "
            f"`--data.image_size {min(image.size)}` or the matching corrupted set."
        )
    return image


def _stacked(views: Iterable[Image.Image], count: int, size: int) -> Tensor:
    array = np.empty((count, size, size, 3), dtype=np.uint8)
    for place, view in enumerate(views):
        array[place] = np.asarray(view)
    return torch.from_numpy(array).permute(0, 3, 1, 2)
