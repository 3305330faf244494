"""Images per second of each part of the way from a data set in memory to the network's input.

    python -m benchmarks.loader [--device cuda]

The parts: choosing and reading a batch of CIFAR's size on the host, copying it to the device,
augmenting and normalising it there; the whole by the loader, and the whole with the images resident
on the device; beside them a training step of WideResNet-40-2. Variants take turns in one process;
ratios are of neighbouring turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.machine import command, machine
from benchmarks.table import Table, rates, save
from benchmarks.timing import Turns, take_turns
from cnsn.nets import wide_resnet
from data.augmentations.randaugment import fixmatch_strong, fixmatch_weak
from data.augmentations.steps import Augmentation, AugMix, AutoAugment, CutMix, Cutout
from data.classification.module import Arrays, ImageClassificationData
from data.images import normalise
from tasks.engine.memory import keep_freed_memory
from tasks.engine.optim import OptimizerSpec, build_optimizer

BATCH, SIZE, IMAGES = 128, 32, 10_000
HALF = (0.5, 0.5, 0.5)


class Smooth(ImageClassificationData):
    """Smooth random images of CIFAR's size, in memory as CIFAR's are."""

    title, num_classes = "smooth random images", 10

    def __init__(
        self, *, augment: Sequence[Augmentation] = (), resident: bool = False, workers: int = 0
    ) -> None:
        super().__init__(
            batch_size=BATCH,
            eval_batch_size=BATCH,
            workers=workers,
            seed=0,
            padding=4,
            flip=True,
            jitter=0.0,
            augment=augment,
            corruptions=(),
            resident=resident,
        )

    def read(self) -> tuple[Arrays, Arrays]:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(IMAGES, 3, 8, 8, generator=generator)
        smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1) * 255
        images = smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        labels = np.arange(IMAGES) % self.num_classes
        return (images, labels), (images[:BATCH], labels[:BATCH])


def endless(data: ImageClassificationData) -> Iterator[Any]:
    data.setup("fit")
    loader = data.train_dataloader()
    while True:
        yield from loader


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """As Lightning copies it."""
    return {
        key: part.to(device, non_blocking=True) if isinstance(part, Tensor) else part
        for key, part in batch.items()
    }


def whole(device: torch.device, **options: Any) -> Callable[[], Any]:
    """From the loader to the network's input."""
    data = Smooth(**options)
    batches = endless(data)
    return lambda: data.on_after_batch_transfer(to_device(next(batches), device), 0)


def parts(device: torch.device) -> dict[str, Callable[[], Any]]:
    """Each part of that way by itself."""
    data = Smooth()
    batches = endless(data)
    host = next(batches)
    there = to_device(host, device)
    images, index, seed = there["image"], there["index"], 1
    return {
        "choose and read, on the host": lambda: next(batches),
        "copy to the device": lambda: to_device(host, device),
        "crop, flip and normalise, on the device": lambda: data.on_after_batch_transfer(
            dict(there), 0
        ),
        "FixMatch's weak view": lambda: normalise(
            fixmatch_weak(images, index, seed=seed), HALF, HALF
        ),
        "FixMatch's strong view": lambda: normalise(
            fixmatch_strong(images, index, seed=seed), HALF, HALF
        ),
    }


def training_step(device: torch.device) -> Callable[[], Any]:
    """Forward, backward and optimiser's step of the paper's network for CIFAR."""
    net = wide_resnet(depth=40, width=2).to(device, memory_format=torch.channels_last)
    optimizer, _ = build_optimizer(net.parameters(), OptimizerSpec(), 100)
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    label = torch.arange(BATCH, device=device) % 10

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = F.cross_entropy(net(images), label)
        loss.backward()
        optimizer.step()

    return step


def bytes_of(batch: dict[str, Any]) -> int:
    return sum(part.nbytes for part in batch.values() if isinstance(part, Tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    parser.add_argument("--turns", type=int, default=5, help="at least, of each line")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_loader.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device(options.device)
    ways = {"loader": whole(device), "resident on the device": whole(device, resident=True)}
    for step in (Cutout(), CutMix(), AutoAugment(), AugMix()):
        ways[f"loader, {type(step).__name__}"] = whole(device, augment=[step])
    sides = {**parts(device), **{f"whole: {name}": way for name, way in ways.items()}}
    measure = partial(take_turns, device=device, at_least=options.turns, clock=time.process_time)
    turns = measure(sides, seconds=options.seconds * len(sides))
    step = measure({"step": training_step(device)}, seconds=options.seconds)
    text = report(turns, step, device)
    save(text, options.out)


def report(turns: Turns, step: Turns, device: torch.device) -> str:
    table = Table("part", "images/s", "quartiles", "time / whole: loader", "step / part")
    for name in turns.times:
        ratio, _, _ = turns.ratio(name, "whole: loader")
        feeds = step.median("step") / turns.median(name)
        table.add(name, *rates(turns, name, BATCH), f"{ratio:.3f}", f"{feeds:,.0f}")
    table.add("training step of WideResNet-40-2", *rates(step, "step", BATCH), "", 1)
    sizes = []
    for resident in (False, True):
        data = Smooth(resident=resident)
        sizes.append(bytes_of(next(endless(data))))
    floats = BATCH * 3 * SIZE * SIZE * 4
    return (
        f"# From the data set to the network's input, on {device.type}\n\n{table}\n\n"
        f"{IMAGES} images of {SIZE}x{SIZE} in batches of {BATCH}; medians over turns, quartiles "
        "of the rates, ratios of neighbouring turns. `step / part` says how many such devices one "
        f"host thread feeds. A batch crosses to the device as {sizes[0]:,} bytes, and as "
        f"{sizes[1]:,} where the images are resident; as float32 it would be {floats:,}. "
        f"{'The step is in bfloat16. ' if device.type == 'cuda' else ''}"
        f"{'Clock' if device.type == 'cuda' else 'Processor'} time, one thread of {machine()}. "
        f"Made by `{command()}`.\n"
    )


if __name__ == "__main__":
    main()
