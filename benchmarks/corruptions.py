"""Images per second, on one core, of every corruption.

    python -m benchmarks.corruptions

Random 32x32 images in batches of 250; median, smallest and largest of several repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.machine import command, machine
from benchmarks.table import Table, save
from data.corruptions.recipes import ALL_CORRUPTIONS, corrupt

BATCH = 250


def rates(name: str, images: torch.Tensor, seconds: float) -> list[float]:
    """Images per second, repeated for about `seconds` and at least 3 times, all severities."""
    corrupt(images[:2], name, 5)
    found: list[float] = []
    while len(found) < 3 or sum(5 * BATCH / rate for rate in found) < seconds:
        start = time.perf_counter()
        for severity in range(1, 6):
            corrupt(images, name, severity, seed=len(found))
        found.append(5 * BATCH / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each corruption")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_corruptions.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    table = Table("corruption", "images/s, median", "smallest", "largest")
    for name in ALL_CORRUPTIONS:
        found = rates(name, images, options.seconds)
        cells = (statistics.median(found), min(found), max(found))
        table.add(name, *(f"{value:,.0f}" for value in cells))
    text = (
        f"# Corruptions: images per second on one core\n\n{table}\n\n"
        f"32x32 images in batches of {BATCH}, mean of the five severities; one thread of "
        f"{machine()}. Made by `{command()}`.\n"
    )
    save(text, options.out)


if __name__ == "__main__":
    main()
