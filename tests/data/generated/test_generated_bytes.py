"""Generated data have the same bytes on every processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.data.generated.generated_bytes import digests

GOLDEN = Path(__file__).parent / "generated_bytes.json"
# What a processor without AVX computes with.
OLDEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
    "OMP_NUM_THREADS": "1",
}


def test_generated_data_have_their_golden_bytes() -> None:
    """Must they change, `data.corruptions.arrays.GENERATOR` is raised, and the file made anew."""
    assert digests() == json.loads(GOLDEN.read_text())


def test_they_are_the_same_without_the_newer_instructions(root: Path) -> None:
    command = [sys.executable, "-m", "tests.data.generated.generated_bytes"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **OLDEST}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads(GOLDEN.read_text())
