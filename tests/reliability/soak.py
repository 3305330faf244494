"""Long trainings of every task, watched from outside: memory, files, processes, shared memory.

    python -m tests.reliability.soak                       # every task, 30 minutes each
    python -m tests.reliability.soak text fixmatch --minutes 5
    python -m tests.reliability.soak text --record results      # also adds to results/soak.md

Each trains on small generated data through its command line, with workers where it has such, and
validates after every epoch of a few steps: what leaks by the epoch leaks fast. Linux only.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from tasks.runs.environment import git_commit
from tests.reliability.launcher import TASKS, Launcher, Process
from tests.reliability.runs import OPTIONS, ROOT, options, write_data
from tests.reliability.soak_table import record, write_table

GROWTH = 0.02  # of the memory after the warm-up
INTERVAL = 0.05  # seconds between two looks: a phase of an epoch may be as short
SHARED = Path("/dev/shm")


@dataclass
class Sample:
    """Of one moment: bytes of the training process, and counts of what it holds."""

    memory: int
    files: int
    threads: int
    children: int


@dataclass
class Soak:
    """What one training was seen to hold after its warm-up.

    Attributes:
        left: shared memory, processes and error that are there after its end.
        epochs: begun in all, each with its validation.
        steps: of the optimiser, in all.
    """

    task: str
    samples: list[Sample] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    epochs: int = 0
    steps: int = 0

    @property
    def growth(self) -> float:
        """Of the memory, from the first fifth of the samples to the last, as a share."""
        first, last = self.memory()
        return last / first - 1

    def memory(self) -> tuple[float, float]:
        """Bytes, the medians of the first fifth of the samples and of the last."""
        part = max(1, len(self.samples) // 5)
        first, last = self.samples[:part], self.samples[-part:]
        return median(s.memory for s in first), median(s.memory for s in last)

    def leaks(self) -> list[str]:
        """What grew or stayed, in words; empty for a sound training."""
        found = list(self.left)
        if self.growth >= GROWTH:
            found.append(f"memory grew by {self.growth:.1%}")
        half = len(self.samples) // 2
        for name in ("files", "threads", "children"):
            before, after = (
                [getattr(sample, name) for sample in part]
                for part in (self.samples[:half], self.samples[half:])
            )
            # Their number goes up and down with an epoch's phases, of which some are short. What
            # stays behind is there in all of them.
            if min(after) > min(before) and max(after) > max(before):
                found.append(f"{name} grew from {max(before)} to {max(after)}")
        return found


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started, and those that they did."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        own = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:  # It has ended.
        return []
    return [*own, *(below for child in own for below in descendants(child))]


def sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in status)
    return Sample(
        memory=int(values["VmRSS"].split()[0]) * 1024,
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(values["Threads"]),
        children=len(descendants(pid)),
    )


def shared_memory(pids: list[int]) -> set[str]:
    """Segments that torch has named after these processes."""
    return {p.name for p in SHARED.glob("torch_*") if any(f"_{pid}_" in p.name for pid in pids)}


def soak(
    launcher: Launcher, task: str, data: Path, place: Path, *, seconds: float, warm_up: float
) -> Soak:
    """Train for `seconds` after the first epoch, of which the first `warm_up` are not judged.

    Raises:
        RuntimeError: the training ended by itself.
    """
    place.mkdir(parents=True, exist_ok=True)
    workers = ["--data.workers=2"] if task in ("text", "classification", "segmentation") else []
    command = ["fit", *options(task, data, place, "--trainer.max_epochs=1000000"), *workers]
    process = launcher.start(task, command)
    while not list(place.glob("runs/*/*/*/checkpoints/last.ckpt")):
        _still_there(process)
        time.sleep(0.1)
    found = Soak(task)
    began = time.monotonic()
    seen: set[int] = {process.pid}
    while (passed := time.monotonic() - began) < seconds:
        _still_there(process)
        seen.update(descendants(process.pid))
        if passed >= warm_up:
            found.samples.append(sample(process.pid))
        time.sleep(INTERVAL)
    process.kill(signal.SIGTERM)
    code = process.wait(timeout=120)
    if code != 128 + signal.SIGTERM:
        found.left.append(f"it ended with {code}")
    found.left += _left(sorted(seen))
    (last,) = place.glob("runs/*/*/*/checkpoints/last.ckpt")
    progress = torch.load(last, map_location="cpu", weights_only=True)
    found.epochs, found.steps = progress["epoch"] + 1, progress["global_step"]
    return found


def _left(pids: list[int], patience: float = 15.0) -> list[str]:
    until = time.monotonic() + patience
    while (alive := [p for p in pids if Path(f"/proc/{p}").exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    found = [f"process {pid} is still there" for pid in alive]
    return [*found, *(f"{SHARED / name} is still there" for name in sorted(shared_memory(pids)))]


def _still_there(process: Process) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"the training ended with {process.code}:\n{process.output()}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.reliability.soak")
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=list(OPTIONS))
    parser.add_argument("--minutes", type=float, default=30.0, help="of each task")
    parser.add_argument("--warm-up", type=float, help="minutes not judged; a sixth by default")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="add to soak.md there")
    asked = parser.parse_args()
    if asked.record is not None and not asked.record.is_dir():
        parser.error(f"Expected --record FOLDER, but there is no folder {asked.record}.")
    warm_up = asked.minutes / 6 if asked.warm_up is None else asked.warm_up
    sound, commit = True, git_commit()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        os.environ["CNSN_CACHE"] = str(base / "cache")
        (base / "cache").mkdir()
        write_data(base / "data")
        with Launcher(ROOT, base) as launcher:
            for task in asked.tasks:
                found = soak(
                    launcher,
                    task,
                    base / "data",
                    base / task,
                    seconds=60 * asked.minutes,
                    warm_up=60 * warm_up,
                )
                leaks, last = found.leaks(), found.samples[-1]
                sound &= not leaks
                print(
                    f"{task}: {last.memory / 2**20:.0f} MiB, {found.growth:+.2%} over "
                    f"{asked.minutes - warm_up:.1f} minutes, {last.files} files, {last.threads} "
                    f"threads, {last.children} workers, {found.steps} steps in {found.epochs} "
                    f"epochs: {'; '.join(leaks) or 'no leak'}",
                    flush=True,
                )
                if asked.record is not None:
                    record(
                        asked.record,
                        found,
                        minutes=asked.minutes,
                        warm_up=warm_up,
                        commit=commit,
                    )
                    write_table(asked.record)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
