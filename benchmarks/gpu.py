"""All that is measured and checked on a GPU, one part after the other, into one file of tables.

    python -m benchmarks.gpu                                  # what nine minutes have room for
    python -m benchmarks.gpu --minutes 40                     # every part to its end
    python -m benchmarks.gpu --parts whole_run                # 100 epochs: nine minutes for them
    python -m benchmarks.gpu --device cpu --smoke             # without a GPU: that every part runs

Every part is a process of its own. One that fails, or takes longer than it may, stops no other, and
the rows that it printed are kept. `--out` begins with the figures that have a target and is written
anew after every part; what the parts print goes beside it, line by line, into a `.log`. Parts need
torch, torchvision, Triton, lightning, torchmetrics, scipy and filelock; the checks also pytest and
hypothesis, and what needs torchtext is left out where there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from benchmarks.gpu_figures import figures
from benchmarks.machine import command, machine

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 15.0  # A part does nothing useful in less.


@dataclass(frozen=True)
class Part:
    """A piece of work for a process.

    Attributes:
        command: what Python runs.
        full: options on a GPU; ``{minutes}`` becomes the minutes that the part has.
        smoke: options that leave as little as runs every line.
        minutes: that it may take, and more where the parts after it leave more.
        table: whether it takes `--device`, and writes a table to `--out`.
    """

    command: str
    full: str
    smoke: str
    minutes: float
    table: bool = True


CHECKS = "-m pytest tests/cnsn/kernels/test_fast_cuda.py -n 0 -v -p no:cacheprovider"
QUICK = "'whole_network or wait or box or large'"
TINY = "--depth 10 --batch 4 --seconds 0"
SHORT = "--epochs 2 --train 256 --test 20 --depth 10"
PARTS = {
    # Are the results right? Against float64, layer by layer and in a network; and nothing waits.
    "check": Part(CHECKS, f"-k {QUICK}", f"-k {QUICK}", 1, table=False),
    # Are the kernels near the floor of two phases?
    "layers": Part(
        "-m benchmarks.layers --dtypes float32 bfloat16",
        "--seconds 0.2 --shapes 128x64x32x32 32x256x56x56",
        "--seconds 0 --shapes 4x8x8x8",
        2,
    ),
    # What does a user pay for a step?
    "step": Part("-m benchmarks.step --autocast", "--compile --batch 128 --seconds 10", TINY, 2),
    # Does a step wait for the device?
    "synchronisation": Part("-m benchmarks.synchronisation", "", "--only CNSN", 0.8),
    # 100 epochs and 75 sets: in how long?
    "whole_run": Part(
        "-m benchmarks.whole_run", "--compile --minutes {minutes}", f"--compile {SHORT}", 2.2
    ),
    # How many images a second, tested and read?
    "evaluate": Part(
        "-m benchmarks.evaluate", "--images 500 --seconds 1", "--images 10 --turns 1 --seconds 0", 1
    ),
    "loader": Part("-m benchmarks.loader", "--seconds 0.5", "--turns 1 --seconds 0", 0.7),
    # What the figures above rest on less.
    "check_rest": Part(
        CHECKS, f"-k 'not ({QUICK[1:-1]})'", f"-k 'not ({QUICK[1:-1]})'", 5, table=False
    ),
    "step_float32": Part("-m benchmarks.step", "--compile --batch 128 --seconds 10", TINY, 3),
    "layers_rest": Part(
        "-m benchmarks.layers --dtypes float32 bfloat16",
        "--seconds 0.2 --shapes 128x32x32x32 128x64x16x16 128x128x8x8",
        "--seconds 0 --shapes 2x3x5x5",
        4,
    ),
    "scaling": Part(
        "-m benchmarks.scaling",
        "--workers 0 2 4 8",
        "--turns 1 --seconds 0 --workers 0 --processes 2 --batches 2",
        3,
    ),
    "whole_run_eager": Part("-m benchmarks.whole_run", "--minutes {minutes}", SHORT, 3),
}
# Of the minutes of a whole run: to start, to generate images, to end the epoch, and to test.
ASIDE = 0.8


@dataclass
class Report:
    """The file of tables, as far as they are known."""

    path: Path
    smoke: bool
    parts: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        rows = figures(self.parts)
        ends = "; ".join(f"{name} {end}" for name, end in self.ends.items())
        sections = [f"## {name}\n\n{text}" for name, text in self.parts.items() if text]
        head = (
            f"# On a GPU: what has a target\n\n{rows}\n\n"
            f"{'A smoke run, whose figures mean nothing. ' if self.smoke else ''}"
            "Times of layers are the GPU's, against the floor of two phases by a copy in the same "
            f"run, the worse of both layouts; those of steps are by the clock. {machine()}. "
            f"Made by `{command()}`.\n\n## Parts\n\n{ends}."
        )
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text("\n\n".join([head, *sections]) + "\n", encoding="utf-8")
        part.replace(self.path)

    def add(self, name: str, end: str, text: str) -> None:
        self.ends[name] = end
        self.parts[name] = text
        self.write()


def words(name: str, options: argparse.Namespace, table: Path, minutes: float) -> list[str]:
    part = PARTS[name]
    found = [sys.executable, *shlex.split(part.command)]
    if part.table:
        # Without a GPU the steps' waits are found on tensors without contents.
        device = "meta" if name == "synchronisation" and options.device == "cpu" else options.device
        found += ["--device", device, "--out", str(table)]
    chosen = part.smoke if options.smoke else part.full
    return found + shlex.split(chosen.format(minutes=f"{max(minutes - ASIDE, 0.5):.1f}"))


def run(arguments: list[str], seconds: float, say: Callable[[str], None]) -> str:
    """One part, its lines given to `say`; how it ended."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=os.setpgrp,  # A group that can be ended as a whole.
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        kill(process)

    timer = threading.Timer(seconds, stop)
    timer.start()
    begin = time.monotonic()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            say(line)
        code = process.wait()
    finally:
        timer.cancel()
        kill(process)
    how = "done" if code == 0 else "out of time" if late.is_set() else f"failed ({code})"
    return f"{how}, {time.monotonic() - begin:.0f} s"


def kill(process: subprocess.Popen[str]) -> None:
    """It, and what it has started, which would keep its output open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def text_of(table: Path, printed: list[str]) -> str:
    """A part's tables without their title; what it printed of them where it did not end."""
    if table.is_file():
        text = table.read_text(encoding="utf-8").partition("\n")[2].strip()
        return re.sub(r"^## ", "### ", text, flags=re.MULTILINE)
    rows = [line.rstrip() for line in printed if line.startswith("| ")]
    return "\n".join([*rows, "", "Not finished."]) if rows else ""


def limit(left: list[str], seconds: float) -> float:
    """Seconds for the first of the parts `left`, of `seconds` for all of them."""
    own, *later = (60 * PARTS[name].minutes for name in left)
    return min(seconds, max(own, seconds - sum(later)))


def measure(options: argparse.Namespace, folder: Path, log: TextIO) -> bool:
    """All parts that there is time for; whether they are done."""
    report, end = Report(options.out, options.smoke), time.monotonic() + 60 * options.minutes

    def say(text: str) -> None:
        log.write(text)
        print(text, end="", flush=True)

    for number, name in enumerate(options.parts):
        seconds = end - time.monotonic()
        if not options.smoke:  # Minutes are a GPU's.
            seconds = limit(options.parts[number:], seconds)
        if seconds < SECONDS:
            report.add(name, "not begun", "")
            continue
        table, printed = folder / f"{name}.md", list[str]()
        arguments = words(name, options, table, seconds / 60)
        say(f"== {name}: {shlex.join(arguments[1:])}\n")

        def heard(line: str, printed: list[str] = printed) -> None:
            printed.append(line)
            say(line)

        how = run(arguments, seconds, heard)
        say(f"== {name}: {how}\n")
        report.add(name, how, text_of(table, printed))
    print(options.out.read_text(encoding="utf-8").partition("\n## ")[0])
    return all(how.startswith(("done", "not begun")) for how in report.ends.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="as little as runs every line")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all; later parts are left")
    parser.add_argument("--out", type=Path, default=Path("runs/results/benchmark_gpu.md"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        options.out.with_suffix(".log").open("w", buffering=1, encoding="utf-8") as log,
    ):
        done = measure(options, Path(folder), log)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
