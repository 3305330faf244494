"""How the cost of CrossNorm and SelfNorm grows, and what several processes send.

    python -m benchmarks.scaling [--device cuda]

One axis at a time from WideResNet-16-1 on 16 images of 32x32: batch, resolution, channels, and the
number k of active CrossNorm sites. Then reading processes, and the bytes of a step between training
processes: measured on CPU, and by calculation for 8 to 64 GPUs. Sides take turns in one process;
ratios are of neighbouring turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from benchmarks.machine import command, machine
from benchmarks.step import megabytes_kept
from benchmarks.table import Table, save
from benchmarks.timing import take_turns
from benchmarks.traffic import measured_traffic, network, ring_bytes, sizes_of
from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.insert import crossnorm_sites
from cnsn.nets import ResNet50, wide_resnet
from data.imagenet.batches import TrainingImages
from data.imagenet.folders import list_images
from data.loading import TrainLoader
from tasks.engine.memory import keep_freed_memory
from tasks.segmentation.networks import FCNResNet50

CNSN = CNSNSpec(kind="cnsn")


@dataclass(frozen=True)
class Setting:
    batch: int = 16
    size: int = 32
    width: int = 1
    k: int = 1


AXES: dict[str, tuple[int, ...]] = {
    "batch": (4, 16, 64),
    "size": (16, 32, 64),
    "width": (1, 2, 4),
    "k": (0, 1, 3, 6),
}


def step_of(
    setting: Setting, spec: CNSNSpec, device: torch.device
) -> tuple[Callable[[], None], float]:
    """Forward and backward, and the MB that a forward keeps for backward, parameters apart."""
    torch.manual_seed(0)
    net = insert(wide_resnet(depth=16, width=setting.width), spec)
    net = net.to(device, memory_format=torch.channels_last)
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    label = torch.arange(setting.batch, device=device) % 10
    active = setting.k if crossnorm_sites(net) else 0

    def step() -> None:
        net.zero_grad()
        with crossnorm_active(net, active):
            loss = F.cross_entropy(net(images), label)
        loss.backward()

    with crossnorm_active(net, active):
        return step, megabytes_kept(net, images)


def growth(device: torch.device, seconds: float, turns: int) -> Table:
    table = Table("setting", "plain, ms", "CNSN, ms", "CNSN / plain", "kept, MB", "of plain")
    for axis, values in AXES.items():
        for value in values:
            setting = replace(Setting(), **{axis: value})
            plain, kept_plain = step_of(setting, CNSNSpec(), device)
            own, kept_own = step_of(setting, CNSN, device)
            found = take_turns(
                {"plain": plain, "CNSN": own},
                seconds=2 * seconds,
                device=device,
                at_least=turns,
                clock=time.process_time,
            )
            ratio, first, third = found.ratio("CNSN", "plain")
            table.add(
                f"{axis} {value}",
                f"{found.median('plain'):.1f}",
                f"{found.median('CNSN'):.1f}",
                f"{ratio:.2f} ({first:.2f}-{third:.2f})",
                f"{kept_own:.1f}",
                f"{kept_own / kept_plain:.2f}",
            )
    return table


def reading(workers: tuple[int, ...], batches: int) -> Table:
    """JPEG files of ImageNet's usual size, cropped to 224, by the clock."""
    table = Table("reading processes", "images/s", "of none")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "class"
        folder.mkdir()
        coarse = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500, 400), Image.Resampling.BICUBIC)
        for number in range(16 * batches):
            picture.save(folder / f"{number}.jpeg", quality=90)
        images = TrainingImages(list_images(Path(name)), size=224, flip=True, seed=0)
        rates: list[float] = []
        for count in workers:
            loader = TrainLoader(images, batch_size=16, seed=0, workers=count)
            for _ in loader:  # starts the processes
                pass
            start = time.perf_counter()
            for _ in loader:
                pass
            rates.append(16 * batches / (time.perf_counter() - start))
            table.add(count, f"{rates[-1]:,.0f}", f"{rates[-1] / rates[0]:.2f}")
    return table


def measured(processes: tuple[int, ...]) -> Table:
    """What each process sends in a step, beside the calculation."""
    table = Table(
        "processes", "network", "gradients, KiB", "buffers, KiB", "sent, KiB", "calculated, KiB"
    )
    for count in processes:
        for kind in ("none", "cnsn"):
            sizes, found = sizes_of(network(kind, 1)), measured_traffic(count, kind)
            wanted = ring_bytes(sizes.gradients, count) + broadcast_bytes(sizes.buffers, count)
            cells = (sizes.gradients, sizes.buffers, found.sent, wanted)
            name = "plain" if kind == "none" else "CNSN"
            table.add(count, name, *(f"{cell / 1024:,.1f}" for cell in cells))
    return table


def broadcast_bytes(payload: int, processes: int) -> float:
    """Sent by a process on average: every process but one must receive the payload once."""
    return (processes - 1) / processes * payload


PAPER: dict[str, tuple[Callable[[], nn.Module], CNSNSpec]] = {
    "WideResNet-40-2": (lambda: wide_resnet(depth=40, width=2), CNSN),
    "ResNet-50": (lambda: ResNet50(num_classes=1000), CNSN),
    "FCN-ResNet-50": (FCNResNet50, replace(CNSN, position="residual", cn_position="out")),
}
LINKS = {"400 Gbit/s": 50e9, "NVLink, 450 GB/s": 450e9}  # bytes a second, each way


def on_paper() -> Table:
    """Bytes that each GPU sends in a step, and the least time for them over one link a GPU."""
    counts = (8, 16, 32, 64)
    table = Table(
        "network", "gradients, MB", "CNSN adds", *(f"{n} GPUs, MB" for n in counts),
        *(f"64 GPUs, ms at {name}" for name in LINKS),
    )  # fmt: skip
    for name, (build, spec) in PAPER.items():
        with torch.device("meta"):
            plain, own = sizes_of(build()), sizes_of(insert(build(), spec))
        added = own.gradients / plain.gradients - 1
        sent = [ring_bytes(own.gradients, n) for n in counts]
        table.add(
            name,
            f"{own.gradients / 1e6:.1f}",
            f"{100 * added:.2f} %",
            *(f"{part / 1e6:.1f}" for part in sent),
            *(f"{1000 * sent[-1] / rate:.2f}" for rate in LINKS.values()),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each side of a setting")
    parser.add_argument("--turns", type=int, default=5, help="at least, of each side")
    parser.add_argument("--batches", type=int, default=20, help="that are read in an epoch")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_scaling.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device(options.device)
    clock = "the clock" if device.type == "cuda" else "the processor's time"
    read = partial(reading, tuple(options.workers), options.batches)
    text = (
        f"# How the cost grows\n\n"
        f"Forward and backward of WideResNet-16, float32; where nothing else is said, 16 images of "
        "32x32, width 1 and one active site. Medians by "
        f"{clock}, ratios of neighbouring turns with their quartiles. Kept is what a forward "
        f"keeps for backward.\n\n{growth(device, options.seconds, options.turns)}\n\n"
        "## Reading processes\n\nJPEG files of 500x400, a random crop of each to 224x224, by the "
        f"clock, without a training process beside them.\n\n{read()}\n\n"
        "## Training processes\n\nBytes that a process sends in a training step of WideResNet-16-1 "
        "under DDP with gloo, counted by the kernel, and the calculation: a ring all-reduce of the "
        "gradients, 2 (n - 1) / n of them, and the buffers from one process to the others.\n\n"
        f"{measured(tuple(options.processes))}\n\n"
        "The same calculation for the paper's networks with CNSN, gradients in float32. CrossNorm "
        "sends nothing: the processes draw the same sites from the same seed.\n\n"
        f"{on_paper()}\n\n"
        f"One thread a process of {machine()}. Made by "
        f"`{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
