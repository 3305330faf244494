"""That the first command trains: ``python -m tests.quickstart`` runs it, short, and looks.

Two rows of the quickstart with one seed and two epochs, in a folder of their own, as a new user's
clone would: with the published results in place, of which none may count as done or be changed. The
same command again must find these runs and train nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from tasks.engine.results import read_results

__all__ = ["faults", "main"]

ROOT = Path(__file__).resolve().parents[1]
ROWS = ("baseline", "CNSN")
EPOCHS = 2
STEPS = EPOCHS * 19  # 1,200 images in batches of 64, the last one smaller


def command(folder: Path) -> list[str]:
    places = [f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]
    run = [sys.executable, "reproduce.py", "quickstart", "--seeds=1", "--jobs=2", *places]
    return [*run, "--rows", *ROWS, "--options", f"--trainer.max_epochs={EPOCHS}"]


def faults(folder: Path) -> list[str]:
    """What speaks against it that the runs in `folder` were trained, and stand in its table."""
    found = []
    steps = {}
    for path in (folder / "runs").rglob("last.ckpt"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        moments = state["optimizer_states"][0]["state"]
        moved = any(float(m["momentum_buffer"].abs().sum()) > 0 for m in moments.values())
        steps[path.parents[2].name] = state["global_step"] if moved else 0
    for row in ROWS:
        if steps.get(row) != STEPS:
            found.append(f"{row}: {steps.get(row, 0)} optimiser steps, expected {STEPS}")
    lines = list(read_results(folder / "results" / "classification.jsonl"))
    errors = {line["name"].rpartition("/")[2]: 100 * line["summary"]["mce"] for line in lines}
    table = folder / "results" / "quickstart.csv"
    rows = csv.DictReader(table.read_text().splitlines() if table.is_file() else [])
    cells = {row["method"]: row["mean corruption error"] for row in rows}
    for row in ROWS:
        value = f"{errors[row]:.1f}" if row in errors else "a value"
        if cells.get(row) != value:
            found.append(f"{row}: {cells.get(row, 'no row')} in the table, expected {value}")
    if not (folder / "results" / "quickstart.png").is_file():
        found.append("no figure")
    return found


def _published() -> str:
    """A checksum of all that is published."""
    files = sorted(path for path in (ROOT / "results").rglob("*") if path.is_file())
    digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return json.dumps(digests)


def main(folder: Path = ROOT / "build" / "quickstart") -> int:
    """Returns the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    before = _published()
    first = subprocess.run(command(folder), cwd=ROOT, text=True, stdout=subprocess.PIPE)
    print(first.stdout)
    found = faults(folder)
    again = subprocess.run(command(folder), cwd=ROOT, text=True, stdout=subprocess.PIPE)
    if first.returncode or again.returncode:
        found.append(f"exit codes {first.returncode} and {again.returncode}")
    if not re.search(r"1 of 2 runs ended; about .* left", first.stdout):
        found.append("no progress, or no time left, was shown")
    shown = ("made here just now", "Published, not made here", "Own runs beside the published")
    if not all(words in first.stdout for words in shown):
        found.append("no fresh table beside the published one was shown")
    if "runs ended" in again.stdout or "nothing new ran" not in again.stdout:
        found.append("the second call did not find the runs of the first")
    if _published() != before:
        found.append("results/ was changed")
    for fault in found:
        print(f"quickstart: {fault}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
