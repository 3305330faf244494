"""Every script of docs/tutorials runs and leaves its figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
TRAINS = ("crossnorm_in_your_network", "selfnorm_and_calibration")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(s, id=s.stem, marks=[pytest.mark.slow] if s.stem in TRAINS else [])
        for s in SCRIPTS
    ],
)
def test_a_tutorial_runs_and_draws_its_figure(script: Path, tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    assert said.strip()
    assert [path.name for path in tmp_path.iterdir()] == [f"{script.stem}.png"]
    if script.stem == "crossnorm_in_your_network":
        # What the tutorial is about: fewer errors at the lowest contrasts.
        last = [float(line.rpartition(", ")[2].rstrip("]")) for line in said.splitlines()]
        assert last[1] < last[0]
    if script.stem == "results_and_tables":
        published = (ROOT / "results" / "quickstart.md").read_text()
        cn = next(line for line in said.splitlines() if "/CN |" in line)
        assert cn.split("|")[2].strip() in published
