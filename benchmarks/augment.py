"""Images per second, on one core, of the batched augmentations and of the same in Pillow.

    python -m benchmarks.augment

Both sides start from 32x32 images in bytes and end with normalised floats. Pillow's does what the
reference code does, one image after the other: `cifar.py` of google-research/augmix,
`randaugment.py` of kekmodel/FixMatch-pytorch (with every drawn operation applied). The sides take
turns in one process; a ratio is that of neighbouring turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks.machine import command, machine
from benchmarks.pil_operations import augmix_value, fixmatch_value, pil_cutout, pil_operation
from benchmarks.table import Table, save
from data.augmentations import augmix, randaugment
from data.augmentations.operations import OPERATIONS, apply_operations
from data.images import normalise
from tasks.engine.memory import keep_freed_memory

BATCH = 128
HALF = (0.5, 0.5, 0.5)
# A parameter from the middle of the operation's range.
MIDDLE = {"posterize": 4.0, "solarize": 128.0, "rotate": 15.0, "shear_x": 0.15, "shear_y": 0.15}
MIDDLE |= {"translate_x": 3.0, "translate_y": 3.0}

preprocess = transforms.Compose([transforms.ToTensor(), transforms.Normalize(HALF, HALF)])
shift = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
    ]
)


def pil_augmix(image: Image.Image) -> Tensor:
    names = list(augmix.POOL)
    weight, share = np.float32(np.random.dirichlet([1] * 3)), np.float32(np.random.beta(1, 1))
    mixed = torch.zeros(3, 32, 32)
    for i in range(3):
        chain = image.copy()
        for _ in range(random.randint(1, 3)):
            name, sign = random.choice(names), random.choice((-1, 1))
            chain = pil_operation(chain, name, augmix_value(name, random.uniform(0.1, 3), sign))
        mixed += weight[i] * preprocess(chain)
    return (1 - share) * preprocess(image) + share * mixed


def pil_strong(image: Image.Image) -> Tensor:
    image, names = shift(image), list(randaugment.POOL)
    for _ in range(2):
        name, sign = random.choice(names), random.choice((-1, 1))
        value = fixmatch_value(name, random.random(), sign)
        image = pil_operation(image, name, value, resampling="nearest")
    image = pil_cutout(image, random.randrange(32), random.randrange(32), 16, 127)
    return preprocess(image)


def one_by_one(view: Callable[[Image.Image], Tensor], array: np.ndarray) -> Tensor:
    return torch.stack([view(Image.fromarray(image)) for image in array])


def compare(
    batched: Callable[[int], Tensor], pillow: Callable[[int], Tensor], seconds: float
) -> tuple[list[float], list[float]]:
    """Processor seconds of every turn of the two sides; at least five each, after one to warm up.

    Not the clock's seconds: those would measure what else the machine does.
    """
    times: tuple[list[float], list[float]] = ([], [])
    turn = 0
    while turn < 6 or sum(map(sum, times)) < seconds:
        for work, found in zip((batched, pillow), times, strict=True):
            start = time.process_time()
            work(turn)
            if turn:
                found.append(time.process_time() - start)
        turn += 1
    return times


def cases() -> dict[str, tuple[Callable[[int], Tensor], Callable[[int], Tensor]]]:
    """Name: the batched side, Pillow's side."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)
    images = (smooth * 255).to(torch.uint8)
    array = images.permute(0, 2, 3, 1).contiguous().numpy()
    index, zero = torch.arange(BATCH), torch.zeros(BATCH)
    found = {
        "AugMix view": (
            lambda turn: normalise(augmix.augmix(images, index, seed=turn), HALF, HALF),
            lambda turn: one_by_one(pil_augmix, array),
        ),
        "FixMatch strong view": (
            lambda turn: normalise(
                randaugment.fixmatch_strong(images, index, seed=turn), HALF, HALF
            ),
            lambda turn: one_by_one(pil_strong, array),
        ),
    }
    for name in OPERATIONS[1:]:
        value = MIDDLE.get(name, 0.5)
        found[name] = (
            lambda turn, name=name, value=value: apply_operations(
                images, zero, torch.full_like(zero, value), (name,)
            ),
            lambda turn, name=name, value=value: one_by_one(
                lambda image: torch.from_numpy(np.array(pil_operation(image, name, value))), array
            ),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each line")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_augment.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    table = Table(
        "augmentation", "batched, images/s", "Pillow, images/s", "ratio", "smallest", "largest",
        "turns",
    )  # fmt: skip
    for name, sides in cases().items():
        times = compare(*sides, options.seconds)
        ratios = [pillow / batched for batched, pillow in zip(*times, strict=True)]
        rates = [BATCH / statistics.median(side) for side in times]
        cells = [f"{rate:,.0f}" for rate in rates]
        cells += [f"{x:.1f}" for x in (statistics.median(ratios), min(ratios), max(ratios))]
        table.add(name, *cells, len(ratios))
    text = (
        f"# Augmentation: batched tensors and Pillow, on one core\n\n{table}\n\n"
        f"32x32 images in batches of {BATCH}; medians over turns of the processor's "
        "time, ratios of neighbouring turns. "
        "The two views count normalisation in, and on Pillow's side the conversion from an array; "
        "the operations alone go from bytes to bytes. "
        f"One thread of {machine()}. Made by `{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
