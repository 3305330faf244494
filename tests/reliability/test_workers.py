"""A loader's worker that cannot go on ends the wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import WorkerError
from data.workers import worker_failure
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import checkpoint, options, succeeded

pytestmark = pytest.mark.promise("no failure of a loader's worker leaves the training waiting")
READ, FIT = "tests.reliability.starved.read", "tests.reliability.starved.fit"
ALL = str(list(range(40)))
SENTENCE = "WorkerError: Expected the loader's workers to hand over their batches, but got: "


@pytest.fixture
def deep(tmp_path: Path) -> str:
    """A folder as batch systems make for a job, in which a socket has no room for its name."""
    folder = tmp_path / ("job" * 30)
    folder.mkdir()
    return str(folder)


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_a_long_tmpdir_is_no_hindrance(warm: Launcher, deep: str, kind: str) -> None:
    process = warm.call(READ, kind, None, False, deep)
    assert process.wait(timeout=60) == 0 and process.output().strip() == ALL, process.output()


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_few_open_files_are_said(warm: Launcher, kind: str) -> None:
    """However many are left, and wherever the last of them is wanted."""
    for files in (4, 6, 8, 9, 11, 13, 20):
        process = warm.call(READ, kind, files, False, None)
        process.wait(timeout=60)
        # What torch's own clean-up of the workers that did start may print stands behind it.
        (said,) = (s for s in process.output().splitlines() if s.startswith(SENTENCE))
        assert "`ulimit -n 4096`" in said


def test_more_open_files_are_asked_for_where_the_system_has_them(warm: Launcher) -> None:
    process = warm.call(READ, "training", 12, True, None)
    assert process.wait(timeout=60) == 0 and process.output().strip() == ALL


def test_a_fit_trains_or_names_the_cause(
    warm: Launcher, data: Path, tmp_path: Path, deep: str
) -> None:
    command = ["fit", *options("text", data, tmp_path), "--data.workers=1"]
    process = warm.call(FIT, command, 14, None)
    assert process.wait(timeout=100) == 1
    assert "error: Expected the loader's workers to hand over" in process.output()
    assert "Too many open files" in process.output() and "`--data.workers 0`" in process.output()
    assert "Traceback" not in process.output()
    succeeded(warm.call(FIT, command, None, deep))
    assert checkpoint(tmp_path)["global_step"] == 10


def test_a_killed_worker_is_one_sentence(warm: Launcher, data: Path, tmp_path: Path) -> None:
    command = ["fit", *options("text", data, tmp_path), "--data.workers=1"]
    process = warm.run("text", command, Fault("loader", 3, "SIGKILL"))
    assert process.code == 1 and "Traceback" not in process.output()
    # Torch asks its workers, or finds a pipe closed, whichever comes first.
    said = ("is killed by signal: Killed", "exited unexpectedly", "Connection reset by peer")
    assert any(words in process.output() for words in said), process.output()
    assert "take fewer `--data.workers`" in process.output()


def test_torchs_words_are_known_and_no_others() -> None:
    bus = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that " + (
        "dataloader's workers are out of shared memory. Please try to raise your shared memory."
    )
    said = worker_failure(RuntimeError(bus))
    assert said and "Bus error: give /dev/shm more room" in said and "Please" not in said
    assert worker_failure(RuntimeError("DataLoader worker (pid(s) 3) exited unexpectedly"))
    assert worker_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    # A worker's error arrives as one of the same type, with its traceback for a message.
    for before in ("", "Traceback:\n  line 3\n"):
        caught = f"Caught WorkerError in DataLoader worker process 0.\nOriginal {before}"
        assert str(WorkerError(f"{caught}data.errors.WorkerError: {said}")) == said
