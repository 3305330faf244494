"""Long trainings leak nothing; see :mod:`tests.reliability.soak` for half an hour of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.launcher import TASKS, Launcher
from tests.reliability.soak import Sample, Soak, soak
from tests.reliability.soak_table import LINES, record, write_table

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


def test_a_table_holds_the_last_soak_of_every_task(tmp_path: Path) -> None:
    def of(task: str, mebibytes: int) -> Soak:
        memory = [2**20 * (100 + mebibytes * (i > 4)) for i in range(10)]
        samples = [
            Sample(m, files=40 + i // 5, threads=5, children=2) for i, m in enumerate(memory)
        ]
        return Soak(task, samples, epochs=3, steps=1500)

    for found in (of("text", 9), of("fixmatch", 7), of("text", 1)):
        record(tmp_path, found, minutes=30, warm_up=5, commit="c0ffee")
    write_table(tmp_path)
    rows = [line for line in (tmp_path / "soak.md").read_text().splitlines() if "| 30 |" in line]
    files = "files grew from 40 to 41 |"
    assert rows == [
        "| fixmatch | 30 | 5 | 3 | 1,500 | 100 | 107 | +7.00% | 41 | 5 | 2 | memory grew by 7.0%; "
        + files,
        f"| text | 30 | 5 | 3 | 1,500 | 100 | 101 | +1.00% | 41 | 5 | 2 | {files}",
    ]
    assert "at commit c0ffee." in (tmp_path / "soak.md").read_text()
    (tmp_path / LINES).write_text('{"task": "text"}\n')
    with pytest.raises(ValueError, match="Expected a soak in line 1"):
        write_table(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_minute_of_each_task(warm: Launcher, data: Path, tmp_path: Path, task: str) -> None:
    assert soak(warm, task, data, tmp_path, seconds=60, warm_up=20).leaks() == []
