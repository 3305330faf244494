"""A whole run: WideResNet-40-2 with CNSN on images of CIFAR-10's size, tested on 15 x 5 sets.

    python -m benchmarks.whole_run --device cuda --compile    # goal on an H200: 6 minutes
    python -m benchmarks.whole_run --epochs 1 --train 640 --test 100 --depth 10    # that it runs

The task's own module, data module and trainer, with everything but the command line, the log and
the checkpoints: 50,000 generated images, cropped and flipped on the device, SelfNorm in every
block, CrossNorm at one of them in half of the steps, a validation on 10,000 images after every
epoch; then the clean test set and 75 corrupted ones of 10,000 images in one pass. Errors are of
generated images and mean nothing. All graphs are compiled in the first epoch. Training ends early
after a later one where `--minutes` have passed; the time of all epochs is then calculated from
those after the first, and the table says so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from cnsn import CNSNSpec
from cnsn.nets import wide_resnet
from data.classification.module import Arrays, ImageClassificationData
from data.corruptions.recipes import CORRUPTIONS
from data.images import Group
from tasks.classification.module import Classification
from tasks.engine.base import CrossNormTraining
from tasks.engine.memory import keep_freed_memory

SIZE, CLASSES, SEVERITIES = 32, 10, 5


class Generated(ImageClassificationData):
    """Smooth images, each class brighter in a place of its own; corrupted ones are brighter."""

    title, num_classes = "generated images of CIFAR-10's size", CLASSES

    def __init__(self, train: int, test: int) -> None:
        super().__init__(
            batch_size=128,
            eval_batch_size=1000,
            workers=0,
            seed=0,
            padding=4,
            flip=True,
            jitter=0.0,
            corruptions=CORRUPTIONS,
            resident=None,
        )
        self.train, self.test = train, test

    def read(self) -> tuple[Arrays, Arrays]:
        generator = torch.Generator().manual_seed(0)
        places = 0.3 * torch.rand(CLASSES, 3, 8, 8, generator=generator)

        def draw(n: int) -> Arrays:
            labels = torch.arange(n) % CLASSES
            coarse = 0.7 * torch.rand(n, 3, 8, 8, generator=generator) + places[labels]
            smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1) * 255
            return smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy()

        return draw(self.train), draw(self.test)

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        images, labels = test
        # An array of its own for every set, so that no cache helps.
        return {
            Group(name, severity): (np.minimum(images, 255 - 10 * severity) + 10 * severity, labels)
            for name in CORRUPTIONS
            for severity in range(1, SEVERITIES + 1)
        }


class Watch(L.Callback):
    """When what was done, by the clock, the device idle; ends training when time is up."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.marks: dict[str, float] = {}
        self.epochs = 0

    def mark(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.marks[name] = time.perf_counter()

    def between(self, first: str, last: str) -> float:
        return self.marks[last] - self.marks[first]

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.epochs += 1
        self.mark(f"epoch {self.epochs}")
        passed = self.between("start", f"epoch {self.epochs}")
        if self.epochs < 3 or self.epochs % 10 == 0:
            print(f"epoch {self.epochs} of {trainer.max_epochs}: {passed:.1f} s", flush=True)
        # The first alone says nothing of the others.
        if self.epochs > 1 and passed > self.seconds:
            trainer.should_stop = True


def run(options: argparse.Namespace) -> str:
    device = torch.device(options.device)
    watch = Watch(device, 60 * options.minutes)
    data = Generated(options.train, options.test)
    data.prepare_data()
    data.setup("fit")  # generating is no part of a run
    watch.mark("start")
    module = Classification(
        wide_resnet(depth=options.depth, width=2),
        CNSNSpec(kind="cnsn"),
        CrossNormTraining(p=0.5, k=1),
        channels_last=True,
        compile=options.compile,
    )
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            precision="bf16-mixed" if cuda else "32-true",
            benchmark=True,
            max_epochs=options.epochs,
            logger=False,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(module, data)
        watch.mark("trained")
        data.setup("test")
        watch.mark("test sets generated")
        trainer.test(module, data, verbose=False)
        watch.mark("tested")
    return report(options, watch, module)


def report(options: argparse.Namespace, watch: Watch, module: Classification) -> str:
    table = Table("part", "seconds", "images/s")
    epochs, tested = watch.epochs, watch.between("test sets generated", "tested")
    first, rest = watch.between("start", "epoch 1"), watch.between("epoch 1", "trained")
    table.add("epoch 1, with start and validation", f"{first:.1f}", "")
    if epochs > 1:
        rate = options.train * (epochs - 1) / rest
        table.add(
            f"training, epochs 2 to {epochs}, with validations", f"{rest:.1f}", f"{rate:,.0f}"
        )
    images = options.test * (1 + SEVERITIES * len(CORRUPTIONS))
    table.add(f"test on {images:,} images", f"{tested:.1f}", f"{images / tested:,.0f}")
    whole, left = first + rest + tested, options.epochs - epochs
    if left:
        more = left * rest / (epochs - 1)
        table.add(f"epochs {epochs + 1} to {options.epochs}, calculated", f"{more:.1f}", "")
        whole += more
    table.add(f"all of {options.epochs} epochs and the test", f"{whole:.1f}", "")
    how = "bfloat16 autocast" if watch.device.type == "cuda" else "float32"
    return (
        f"# A whole run, on {watch.device.type}\n\n{table}\n\nWideResNet-{options.depth}-2 with "
        f"CNSN, {options.train:,} generated training images in batches of 128, {how}, "
        f"{'compiled' if options.compile else 'eager'}; by the clock. "
        f"{'Training was stopped early; what is called calculated was not run. ' if left else ''}"
        f"Error on the generated clean images: {100 * module.metrics['summary']['error']:.1f} %. "
        f"{machine()}. Made by `{command()}`.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--depth", type=int, default=40)
    parser.add_argument("--train", type=int, default=50_000, help="images")
    parser.add_argument("--test", type=int, default=10_000, help="images of each set")
    parser.add_argument("--minutes", type=float, default=7.0, help="of training, at most")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_whole_run.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    keep_freed_memory()
    text = run(options)
    save(text, options.out)


if __name__ == "__main__":
    main()
