"""Small data sets in the real on-disk layouts, written into a temporary folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

CIFAR10_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def learnable_images(labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """uint8 (N, 32, 32, 3): each class has a bright bar of its own on noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 120, (len(labels), 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        start = int(label) * 32 // classes
        image[start : start + 3] += 120
    return images.astype(np.uint8)


def write_cifar(root: Path, *, name: str = "cifar10", n: int = 40, seed: int = 0) -> Path:
    """`n` images in every file of CIFAR-10's or CIFAR-100's layout; returns `root`."""
    classes = 10 if name == "cifar10" else 100
    folder = root / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    folder.mkdir(parents=True)
    for number, file in enumerate(CIFAR10_FILES if name == "cifar10" else ["train", "test"]):
        rng = np.random.default_rng([seed, number])
        labels = rng.permutation(np.arange(n) % classes)
        images = learnable_images(labels, classes, seed + number)
        batch = {
            "data": images.transpose(0, 3, 1, 2).reshape(n, -1),
            "labels" if name == "cifar10" else "fine_labels": labels.tolist(),
        }
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    return root
