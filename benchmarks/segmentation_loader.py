"""Does reading keep up with training? Images per second of loader and network, and peak memory.

    python -m benchmarks.segmentation_loader

Generated scenes at GTA5's size (1914x1052), read as the recipe reads them: decoded, scaled,
rotated, cut to 713, blurred and flipped. Beside them the same from a resized copy, and a training
step of the paper's network on 2 crops of 713.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.machine import command, machine
from benchmarks.table import save
from cnsn import CNSNSpec, crossnorm_active, insert
from data.generated.scenes import SOURCE, write_scenes
from data.prepare.segmentation import write_resized
from data.randomness import generator_for
from data.segmentation.label_files import read_label
from data.segmentation.layouts import Pair, open_collection
from data.segmentation.sets import TrainingCrops, read_image
from data.segmentation.transforms import JointTransform

WIDTH, HEIGHT, CROP, BATCH = 1914, 1052, 713, 2
IMAGES = 8
METHODS = {
    "baseline": CNSNSpec(),
    "CNSN": CNSNSpec(kind="cnsn", position="residual", cn_position="out", crop="style"),
}
Rates = dict[str, list[float]]


def rates(pairs: list[Pair], seconds: float) -> Rates:
    """Images per second of each step and of the whole, in CPU time of one process."""
    crops = TrainingCrops(pairs, JointTransform(CROP), seed=0)
    loaded = [(read_image(p.image), torch.from_numpy(read_label(p.label, p.kind))) for p in pairs]
    steps: dict[str, Callable[[int], object]] = {
        "decode image": lambda i: read_image(pairs[i].image),
        "decode labels": lambda i: read_label(pairs[i].label, pairs[i].kind),
        "augment": lambda i: crops.transform(*loaded[i], generator_for(i)),
        "all": lambda i: crops.draw([i], 0),
    }
    found: Rates = {}
    for name, step in steps.items():
        found[name] = []
        step(0)
        while len(found[name]) < 3 or sum(IMAGES / rate for rate in found[name]) < seconds:
            # CPU time: what a worker needs, however busy the machine is.
            start = time.process_time()
            for i in range(len(pairs)):
                step(i)
            found[name].append(len(pairs) / (time.process_time() - start))
    return found


def measure_step(method: str) -> dict[str, float]:
    """CPU seconds and peak memory, in GiB, of one training step; to be run in a fresh process."""
    from tasks.segmentation.module import pixel_cross_entropy
    from tasks.segmentation.networks import FCNResNet50

    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = METHODS[method]
    net: nn.Module = insert(FCNResNet50(), spec).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(BATCH, 3, CROP, CROP, device=device)
    label = torch.randint(19, (BATCH, CROP, CROP), device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    before = _peak(device)
    start = time.process_time()
    with crossnorm_active(net, int(spec.crossnorm)):
        outputs = net(images)
    losses = [pixel_cross_entropy(outputs[head], label) for head in ("out", "aux")]
    (losses[0] + 0.4 * losses[1]).backward()
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.process_time() - start, "peak": _peak(device), "before": before}


def _peak(device: str) -> float:
    """GiB: of the process on CPU (Linux counts in KiB), of tensors on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_fresh_process(method: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.segmentation_loader", "--step", method]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def report(reading: dict[str, Rates], steps: dict[str, dict[str, float]], sizes: str) -> str:
    header = ["| images | " + " | ".join(next(iter(reading.values()))) + " |", "| --- " * 5 + "|"]
    lines = [
        f"| {name} | " + " | ".join(f"{statistics.median(r):.1f}" for r in found.values()) + " |"
        for name, found in reading.items()
    ]
    text = (
        "# Segmentation: images per second of one reading process, and a training step\n\n"
        f"Reading, in images per second of CPU time (median of repeats), cut to {CROP}x{CROP}:\n\n"
        + "\n".join([*header, *lines])
        + f"\n\nOne training step of FCN-ResNet-50 on {BATCH} crops of {CROP}x{CROP}, float32, "
        "one thread:\n\n| method | CPU seconds | images per CPU second | peak memory, GiB | before "
        "the step, GiB |\n| --- | --- | --- | --- | --- |\n"
    )
    for method, found in steps.items():
        text += (
            f"| {method} | {found['seconds']:.0f} | {BATCH / found['seconds']:.3f} | "
            f"{found['peak']:.1f} | {found['before']:.1f} |\n"
        )
    if steps:
        speed = BATCH / steps["baseline"]["seconds"]
        ratio = statistics.median(reading["original size"]["all"]) / speed
        text += (
            f"\nOne reading process feeds {ratio:,.0f} such threads; a device that trains N images "
            "per second needs N divided by the column `all` of workers.\n"
        )
    return text + (f"\n{sizes} {machine()}. Made by `{command()}`.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU time for each reading step")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_segmentation.md"))
    parser.add_argument("--step", choices=METHODS, help="only measure a step, and print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step:
        print(json.dumps(measure_step(options.step)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scenes(root, source=IMAGES, target=1, width=WIDTH, height=HEIGHT, seed=0)
        source, half = root / SOURCE, root / "half"
        write_resized(source, half, scale=0.5, workers=1)
        reading = {}
        for name, place in (("original size", source), ("resized by 0.5", half)):
            parts = open_collection(place, ("train", "val")).parts
            reading[name] = rates([*parts["train"], *parts["val"]], options.seconds)
        sizes = [path.stat().st_size / 2**20 for path in (source / "images").iterdir()]
    text = f"{IMAGES} scenes of {WIDTH}x{HEIGHT} as PNGs of {statistics.mean(sizes):.1f} MiB;"
    steps = {method: in_fresh_process(method) for method in METHODS}
    save(report(reading, steps, text), options.out)


if __name__ == "__main__":
    main()
