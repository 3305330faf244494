"""Small data sets in the real on-disk layouts, written into a temporary folder."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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


CLASS_NAMES = ("n01440764", "n01443537", "n02102040")
TWO_CORRUPTIONS = ("gaussian_noise", "fog")


def write_imagenet(
    root: Path, *, classes: Sequence[str] = CLASS_NAMES, n: int = 8, size: int = 24, seed: int = 0
) -> Path:
    """ImageNet's folders with `n` training and n / 2 validation images a class; returns `root`.

    Images are JPEG files a little wider than high, larger than `size`; names are ImageNet's.
    """
    labels = np.repeat(np.arange(len(classes)), n)
    images = learnable_images(labels, len(classes), seed)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / "train" / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image).resize((size * 3 // 2, size * 5 // 4))
        picture.save(folder / f"{classes[label]}_{number}.JPEG", quality=95)
    for folder, file, picture in _validation(root / "val", classes, n // 2, seed + 1):
        folder.mkdir(parents=True, exist_ok=True)
        picture.resize((size * 5 // 4, size * 3 // 2)).save(folder / file, quality=95)
    return root


def write_imagenet_c(
    base: Path,
    *,
    classes: Sequence[str] = CLASS_NAMES,
    corruptions: Sequence[str] = TWO_CORRUPTIONS,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    n: int = 8,
    size: int = 24,
    seed: int = 0,
) -> Path:
    """ImageNet-C's folders of :func:`write_imagenet`'s validation images; returns `base`.

    The "corruption" is noise that grows with the severity; images are squares of `size`.
    """
    for corruption in corruptions:
        for severity in severities:
            rng = np.random.default_rng([seed, severity, len(corruption)])
            own = base / corruption / str(severity)
            for folder, file, picture in _validation(own, classes, n // 2, seed + 1):
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.asarray(picture.resize((size, size))).astype(float)
                pixels += rng.normal(0, 20 * severity, pixels.shape)
                noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                noisy.save(folder / file, quality=95)
    return base


def _validation(
    part: Path, classes: Sequence[str], n: int, seed: int
) -> list[tuple[Path, str, Image.Image]]:
    labels = np.repeat(np.arange(len(classes)), n)
    images = learnable_images(labels, len(classes), seed)
    return [
        (part / classes[label], f"ILSVRC2012_val_{number + 1:08d}.JPEG", Image.fromarray(image))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


GOOD_WORDS = ("great", "lovely", "warm", "funny", "moving")
BAD_WORDS = ("bad", "dull", "awful", "boring", "weak")
PLAIN_WORDS = ("the", "film", "is", "a", "story", "of", "people", "and", "it", "plays")


def review(label: int, length: int, seed: int) -> str:
    """A text of about `length` words, of which every third says the label."""
    rng = np.random.default_rng(seed)
    telling = GOOD_WORDS if label else BAD_WORDS
    words = [str(rng.choice(telling if place % 3 == 0 else PLAIN_WORDS)) for place in range(length)]
    return " ".join(words).capitalize() + "."


def reviews(n: int = 24, seed: int = 0) -> dict[str, str]:
    """`n` reviews of each label in each part, by their name in IMDb's archive."""
    texts = {}
    for part in ("train", "test"):
        for label, kind in enumerate(("neg", "pos")):
            for number in range(n):
                own = seed + number + 1000 * label + 2000 * (part == "test")
                length = 4 + int(np.random.default_rng(own).integers(0, 40))
                name = f"aclImdb/{part}/{kind}/{number}_{9 if label else 2}.txt"
                texts[name] = review(label, length, own)
    return texts


def write_imdb(root: Path, texts: dict[str, str | bytes] | dict[str, str], *, pack: bool) -> Path:
    """Reviews as IMDb's archive or folder below `root`; returns what was written."""
    root.mkdir(parents=True, exist_ok=True)
    if not pack:
        for name, text in texts.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode() if isinstance(text, str) else text)
        return root / "aclImdb"
    with tarfile.open(root / "aclImdb_v1.tar.gz", "w:gz") as tar:
        for name, text in texts.items():
            content = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return root / "aclImdb_v1.tar.gz"


def write_sst2(root: Path, *, n: int = 20, splits: tuple[str, ...] = ("train", "dev")) -> Path:
    """`n` sentences a split as tables with a header; returns the folder."""
    folder = root / "SST-2"
    folder.mkdir(parents=True)
    for place, split in enumerate(splits):
        lines = ["sentence\tlabel"]
        for number in range(n):
            label = number % 2
            lines.append(f"{review(label, 3 + number % 9, 5000 + 100 * place + number)}\t{label}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_domains(
    root: Path,
    counts: dict[str, dict[str, int]],
    *,
    size: int = 24,
    nested: bool = True,
    empty: bool = False,
) -> Path:
    """Domains of `counts[domain][class]` PNG files each; returns `root`.

    Args:
        root: folder to write into.
        counts: number of images.
        size: of each image, which is one grey level for all of its class.
        nested: as <domain>/images/<class>, else as <domain>/<class>.
        empty: write files of no content, where only their number matters.
    """
    for domain, classes in counts.items():
        for number, (name, n) in enumerate(classes.items()):
            folder = root / domain / "images" / name if nested else root / domain / name
            folder.mkdir(parents=True)
            for i in range(n):
                path = folder / f"frame_{i:04d}.png"
                if empty:
                    path.touch()
                else:
                    level = 20 * number + 3 * i + (100 if domain > "m" else 0)
                    Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(path)
    return root
