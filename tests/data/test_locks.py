"""Locks where the file system has them, and where it has none.

A file system without locks is one whose ``flock`` answers as the kernel does for it: man 2 flock,
and Lustre's and NFS's own errors.
"""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLock, Timeout

from data import locks
from data.files import only_one
from data.locks import Lock
from tasks.engine.results import append_result, check_writable, read_results
from tasks.runs.directory import RunDirectory
from tasks.tables.states import _is_held

pytestmark = pytest.mark.filterwarnings("ignore:The file system of")
ANSWERS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture(params=[None, *ANSWERS], ids=lambda code: errno.errorcode.get(code, "with locks"))
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Of every kind."""
    if request.param is not None:
        answer(monkeypatch, request.param)
    return request.param


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, errno.ENOLCK)


def answer(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_one_holder_at_a_time(system: int | None, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a.lock"
    assert not _is_held(path)
    with Lock(path).acquire(timeout=0):
        assert _is_held(path)
        with pytest.raises(Timeout):
            Lock(path).acquire(timeout=0)
    assert not _is_held(path)
    with Lock(path).acquire(timeout=0):
        assert bool(Lock(path).way_out()) == (system is not None)
    assert Lock(path).way_out() == ""


def test_another_users_run_is_only_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    path.touch()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Lock, "acquire", refuse)
    assert not _is_held(path)


def test_a_forked_worker_takes_nothing_with_it(system: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with Lock(path).acquire(timeout=0):
        worker = multiprocessing.get_context("fork").Process(target=int)
        worker.start()
        worker.join()
        assert worker.exitcode == 0 and _is_held(path)
    assert not _is_held(path)


DIES = """
import errno, fcntl, os, sys, pathlib
def flock(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
from data.locks import Lock
held = Lock(pathlib.Path(sys.argv[1])).acquire(timeout=0)
os._exit(9)
"""


def test_what_a_dead_process_held_is_free(lockless: None, tmp_path: Path, root: Path) -> None:
    path = tmp_path / "a.lock"
    died = subprocess.run([sys.executable, "-W", "ignore", "-c", DIES, path], cwd=root, check=False)
    assert died.returncode == 9 and Lock(path).marker.is_file()
    with Lock(path).acquire(timeout=0):
        pass


@pytest.mark.parametrize("holder", ["4711\nnode7\n", ""])
def test_what_another_machine_held_has_a_way_out(
    lockless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], holder: str
) -> None:
    run = RunDirectory(tmp_path, seed=0, digest="0")
    run.path.mkdir()
    marker = run.path / "training.lock.holder"
    marker.write_text(holder)
    with pytest.raises(ValueError, match="no other process to train") as refused:
        run.hold()
    who = "process 4711 of node7" if holder else "a process that did not say which"
    assert f"It is {who}: if that has ended, delete {marker}." in str(refused.value)
    marker.unlink()
    run.hold().release()


def test_a_preparation_waits_and_says_for_whom(
    lockless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    marker = tmp_path / "a.lock.holder"
    marker.write_text("4711\nnode7\n")
    monkeypatch.setattr("data.files.say", lambda line: (print(line), marker.unlink()))
    with only_one(tmp_path / "a.lock"):
        assert f"if that has ended, delete {marker}" in capsys.readouterr().out
    assert not marker.exists()


def test_a_line_is_added_and_tried_before(system: int | None, tmp_path: Path) -> None:
    path = tmp_path / "results" / "toy.jsonl"
    check_writable(path)
    assert not list(tmp_path.iterdir())
    append_result(path, {"seed": 1})
    check_writable(path)
    append_result(path, {"seed": 2})
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [1, 2]
    assert list(path.parent.iterdir()) == [path]


def test_a_line_waits_for_its_turn_and_is_never_lost(
    lockless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    path = tmp_path / "toy.jsonl"
    path.touch()
    with SoftFileLock(f"{path}.holder"):
        with pytest.raises(ValueError, match=r'by hand: \{"seed": 1\}'):
            append_result(path, {"seed": 1})
        with pytest.raises(ValueError, match=rf"add a line to {path}, but .*{tmp_path}"):
            check_writable(path)
    assert not list(read_results(path))


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_locked_at_all_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    answer(monkeypatch, errno.EIO)
    path = tmp_path / "toy.jsonl"
    if there:
        path.touch()
    with pytest.raises(ValueError, match=rf"{tmp_path} .*locked \(Input/output error\).*--results"):
        check_writable(path)


def test_it_is_said_once_a_folder(lockless: None, tmp_path: Path) -> None:
    with pytest.warns(UserWarning) as said:
        for name in "ab":
            Lock(tmp_path / name).acquire(timeout=0).release()
    assert [str(w.message).startswith(f"The file system of {tmp_path}") for w in said] == [True]
