"""All that is measured and checked on a GPU, one part after the other.

    python -m benchmarks.gpu --out results/gpu                # everything, about 20 minutes
    python -m benchmarks.gpu --parts check layers step        # in pieces
    python -m benchmarks.gpu --device cpu --smoke             # without a GPU: that every part runs

Every part is a process of its own. One that fails, or takes longer than it may, is named in the end
and stops no other. Parts need torch, torchvision and Triton; `check` pytest and hypothesis; from
`synchronisation` on also lightning, torchmetrics and scipy. Tables go to the folder `--out`, what a
part prints to the terminal and to its `.log` there.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Part:
    """A command, what to add for a smoke run, and the minutes that it may take."""

    command: str
    smoke: str
    minutes: float
    table: bool = True


TINY = "--depth 10 --batch 4 --seconds 0"
PARTS = {
    # Are the results right? Kernels against float64, in networks, compiled; and nothing waits.
    "check": Part("-m pytest tests/cnsn/test_fast_cuda.py -n 0 -v", "", 5, table=False),
    # Are the kernels near the floor of two phases?
    "layers": Part(
        "-m benchmarks.layers --dtypes float32 bfloat16 --seconds 0.2",
        "--seconds 0 --shapes 4x8x8x8",
        5,
    ),
    # What does a user pay for a step?
    "step": Part("-m benchmarks.step --batch 128 --autocast --compile", TINY, 5),
    "step_float32": Part("-m benchmarks.step --batch 128 --compile", TINY, 5),
    "synchronisation": Part("-m benchmarks.synchronisation", "--only CNSN", 3),
    # 100 epochs and 75 sets: in how long?
    "whole_run": Part(
        "-m benchmarks.whole_run --compile --minutes 6",
        "--epochs 1 --train 256 --test 20 --depth 10",
        9,
    ),
    "whole_run_eager": Part(
        "-m benchmarks.whole_run --minutes 1",
        "--epochs 1 --train 256 --test 20 --depth 10",
        4,
    ),
    "evaluate": Part("-m benchmarks.evaluate --images 1000", "--images 10 --seconds 0", 5),
    "loader": Part("-m benchmarks.loader", "--seconds 0.05", 4),
    "scaling": Part(
        "-m benchmarks.scaling --workers 0 2 4 8",
        "--seconds 0 --workers 0 --processes 2",
        5,
    ),
}


def words(name: str, options: argparse.Namespace) -> list[str]:
    part = PARTS[name]
    found = [sys.executable, *shlex.split(part.command)]
    if part.table:
        # Without a GPU the steps' waits are found on tensors without contents.
        device = "meta" if name == "synchronisation" and options.device == "cpu" else options.device
        table = options.out / f"benchmark_gpu_{name}.md"
        found += ["--device", device, "--out", str(table)]
    return found + (shlex.split(part.smoke) if options.smoke else [])


def run(name: str, options: argparse.Namespace) -> str:
    """One part; how it ended."""
    begin = time.perf_counter()
    log = options.out / f"benchmark_gpu_{name}.log"
    print(f"== {name}: {shlex.join(words(name, options)[1:])}", flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            words(name, options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        timer = threading.Timer(60 * PARTS[name].minutes, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            print(line, end="", flush=True)
        code = process.wait()
        late = not timer.is_alive()
        timer.cancel()
    seconds = time.perf_counter() - begin
    how = "done" if code == 0 else "out of time" if late else f"failed ({code})"
    return f"{name}: {how}, {seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="as little as runs every line")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="a folder")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    print(machine())
    ends = [run(name, options) for name in options.parts]
    print("\n".join(["==", *ends]))
    sys.exit(0 if all(": done" in end for end in ends) else 1)


if __name__ == "__main__":
    main()
