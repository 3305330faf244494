"""Data sets of images and labels, read by batches of positions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from tqdm import tqdm

from data.errors import listed
from data.files import check_depth
from data.loading import Batch
from data.randomness import generator_for
from data.segmentation.label_files import read_label
from data.segmentation.layouts import Pair
from data.segmentation.transforms import JointTransform

__all__ = [
    "EvaluationImages",
    "PlainImages",
    "TrainingCrops",
    "read_image",
    "read_pair",
    "size_batches",
    "verify_pairs",
]


def read_image(path: Path) -> Tensor:
    """uint8 (3, H, W), RGB; of 16 bits a channel, the upper 8.

    Raises:
        ValueError: the file cannot be read, or has fewer bits than it says.
    """
    try:
        image = decode_image(str(path), ImageReadMode.RGB)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"Expected {path} to be a PNG or JPEG image, but it is missing or damaged: fetch it "
            "again."
        ) from error
    if image.dtype != torch.uint16:
        return image
    upper = (image.int() >> 8).to(torch.uint8)
    try:
        check_depth(int(upper.max()))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be an image of 8 bits, but {error}.") from error
    return upper


def read_pair(pair: Pair) -> tuple[Tensor, Tensor]:
    """Image uint8 (3, H, W) and training ids uint8 (H, W)."""
    image, mask = read_image(pair.image), torch.from_numpy(read_label(pair.label, pair.kind))
    if image.shape[1:] != mask.shape:
        raise ValueError(
            f"Expected {pair.label} to be of its image's size, {tuple(image.shape[1:])}, but got "
            f"{tuple(mask.shape)}."
        )
    return image, mask


def verify_pairs(pairs: Sequence[Pair]) -> None:
    """Read every image with its labels, on all cores.

    Raises:
        ValueError: some cannot be used; they are counted, and the first of them named.
    """

    def problem(pair: Pair) -> str:
        try:
            read_pair(pair)
        except ValueError as error:
            return str(error)
        return ""

    bar = tqdm(total=len(pairs), desc="checking", unit="pair", disable=None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        bad = []
        for found in pool.map(problem, pairs):
            bad += [found] if found else []
            bar.update()
    if bad:
        raise ValueError(
            f"Expected all of {len(pairs):,} images and their labels to be usable, but "
            f"{len(bad):,} are not: {listed([one.rstrip('.') for one in bad], 3, '; ')}."
        )


class TrainingCrops:
    """A random crop of each image, which depends on (seed, epoch, position) alone."""

    def __init__(self, pairs: Sequence[Pair], transform: JointTransform, *, seed: int) -> None:
        self.pairs = list(pairs)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, positions: list[int], epoch: int) -> Batch:
        """{"image": uint8 (B, 3, S, S), "label": uint8 (B, S, S), "index": (B,)}."""
        crops = [
            self.transform(*read_pair(self.pairs[p]), generator_for(self.seed, epoch, p))
            for p in positions
        ]
        images, masks = zip(*crops, strict=True)
        return {
            "image": torch.stack([image.as_subclass(Tensor) for image in images]),
            "label": torch.stack([mask.as_subclass(Tensor) for mask in masks]),
            "index": torch.as_tensor(positions),
        }


class EvaluationImages:
    """Whole images of several domains behind one another.

    Args:
        domains: the pairs of each.

    Attributes:
        sizes: (domain, height, width) of each image.
    """

    def __init__(self, domains: Sequence[Sequence[Pair]]) -> None:
        self.pairs = [pair for pairs in domains for pair in pairs]
        self.domain = [d for d, pairs in enumerate(domains) for _ in pairs]
        self.sizes = [
            (d, pair.height, pair.width) for d, pair in zip(self.domain, self.pairs, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, positions: list[int]) -> Batch:
        pairs = [read_pair(self.pairs[p]) for p in positions]
        images, masks = zip(*pairs, strict=True)
        return {
            "image": torch.stack(images),
            "label": torch.stack(masks),
            "index": torch.as_tensor(positions),
            "domain": self.domain[positions[0]],
        }


def size_batches(sizes: Sequence[tuple[int, int, int]], batch_size: int) -> list[list[int]]:
    """Positions in batches of equal (domain, height, width): nothing is padded or resized."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        groups.setdefault(size, []).append(position)
    return [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]


class PlainImages:
    """Images without labels, one a batch.

    Args:
        images: name and file of each.
        root: where they lie.
    """

    def __init__(self, images: Sequence[tuple[str, Path]], root: Path) -> None:
        self.root = root
        self.names = [name for name, _ in images]
        self.paths = [path for _, path in images]

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Of names and file sizes, 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, path in zip(self.names, self.paths, strict=True):
            digest.update(f"{name} {path.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]

    def named(self, position: int) -> tuple[str, Tensor]:
        """Name and image, uint8 (3, H, W)."""
        return self.names[position], read_image(self.paths[position])

    def __getitem__(self, positions: list[int]) -> Batch:
        images = torch.stack([read_image(self.paths[p]) for p in positions])
        return {"image": images, "index": torch.as_tensor(positions)}
