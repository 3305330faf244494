"""Long trainings leak nothing; see :mod:`tests.reliability.soak` for half an hour of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.launcher import TASKS, Launcher
from tests.reliability.soak import Sample, Soak, soak

pytestmark = pytest.mark.promise(
    "a long training keeps its memory, files and processes as they are"
)


def seen(memory: float = 0.0, files: int = 0, once: int = 0) -> list[str]:
    """Leaks found in 100 samples, over which memory grows by a share and files by a number.

    There are `once` more files, or fewer, in one of the last samples.
    """
    samples = [
        Sample(int(1e9 * (1 + memory * i / 99)), 40 + i % 3 + files * i // 99, 5, 2)
        for i in range(100)
    ]
    samples[90].files += once
    return Soak("text", samples).leaks()


def test_what_counts_as_a_leak() -> None:
    assert seen() == [] and seen(memory=0.02) == []
    assert seen(memory=0.04) == ["memory grew by 3.2%"]
    assert seen(files=4) == ["files grew from 43 to 45"]
    assert seen(files=2) == ["files grew from 42 to 43"]
    assert seen(once=5) == seen(once=-5) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_minute_of_each_task(warm: Launcher, data: Path, tmp_path: Path, task: str) -> None:
    assert soak(warm, task, data, tmp_path, seconds=60, warm_up=20).leaks() == []
