"""Checkpoints on disks that fill up, lie, or lose their power."""

from __future__ import annotations

import errno
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.runs import checkpoints as checkpoint_io
from tasks.runs.checkpoints import (
    CheckpointNotSavedError,
    damage_of,
    newest_readable,
    remove_parts,
    set_aside_damaged,
    write_checkpoint,
)
from tasks.runs.resume import differences
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import options, run_directory, succeeded

pytestmark = pytest.mark.promise("a checkpoint is whole, or the one before it is still there")


def state(step: int, size: int = 2000) -> dict[str, Any]:
    weights = torch.full((size,), float(step))
    return {"state_dict": {"w": weights}, "global_step": step, "epoch": 0}


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 1 and 2."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    for step in (1, 2):
        write_checkpoint(state(step), path)
    return path


def steps(last: Path) -> list[int]:
    return [read(last.with_name(name))["global_step"] for name in ("last.ckpt", "previous.ckpt")]


def test_the_one_before_is_kept(last: Path) -> None:
    assert steps(last) == [2, 1]
    assert {path.name for path in last.parent.iterdir()} == {"last.ckpt", "previous.ckpt"}
    write_checkpoint(state(3), last)
    assert steps(last) == [3, 2]
    best = last.with_name("best.ckpt")
    for step in (4, 5):
        write_checkpoint(state(step), best)
    assert read(best)["global_step"] == 5 and steps(last) == [3, 2]


def test_the_order_is_write_synchronise_verify_move_synchronise(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noting(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return inner(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", noting("synchronise", os.fsync))
    monkeypatch.setattr(checkpoint_io, "_compare", noting("verify", checkpoint_io._compare))
    monkeypatch.setattr(os, "link", noting("keep", os.link))
    monkeypatch.setattr(os, "replace", noting("move", os.replace))
    write_checkpoint(state(3), last)
    assert calls == ["synchronise", "verify", "keep", "move", "move", "synchronise"]


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes, as a full disk does.

    Within the test alone: pytest's own output may be a file, too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 50, 4096, 9000])
def test_the_system_refuses_a_large_file(last: Path, size: int) -> None:
    first = last.parents[1] / "new" / "last.ckpt"
    with small_files(size):
        with pytest.raises(CheckpointNotSavedError, match=r"last\.ckpt is as it was\. Make room"):
            write_checkpoint(state(3, 100_000), last)
        with pytest.raises(CheckpointNotSavedError, match=r"too large.*starts from its beginning"):
            write_checkpoint(state(3, 100_000), first)
    assert steps(last) == [2, 1]
    assert not list(last.parent.glob("*.part"))
    assert not list(first.parent.iterdir())


def test_a_full_disk(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file system that is really full, where one can be had: /dev/full."""
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *mode: opened(Path("/dev/full") if mode == ("wb",) else path, *mode),
    )
    with pytest.raises(CheckpointNotSavedError, match="No space left on device"):
        write_checkpoint(state(3), last)
    assert steps(last) == [2, 1]


def test_a_disk_that_lies_is_found_before_the_old_one_goes(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = checkpoint_io._Writer.finish

    def damaged(writer: Any) -> None:
        finish(writer)
        flip(Path(writer.file.name), 3000)

    monkeypatch.setattr(checkpoint_io._Writer, "finish", damaged)
    with pytest.raises(CheckpointNotSavedError, match="not to be trusted"):
        write_checkpoint(state(3), last)
    assert steps(last) == [2, 1]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "other", "gone"])
def test_a_damaged_last_falls_back_with_a_warning(last: Path, damage: str) -> None:
    assert newest_readable(last.parent) == last
    content = last.read_bytes()
    if damage == "empty":
        last.write_bytes(b"")
    elif damage == "cut":
        last.write_bytes(content[: len(content) * 2 // 3])
    elif damage == "bit":
        flip(last, len(content) // 2)
    elif damage == "other":
        torch.save({"a": 1}, last)
    else:
        last.unlink()
        assert newest_readable(last.parent) == last.with_name("previous.ckpt")
        return
    assert damage_of(last) is not None
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*previous\.ckpt, the checkpoint"):
        assert newest_readable(last.parent) == last.with_name("previous.ckpt")
    last.with_name("previous.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Expected a readable checkpoint.*`--fresh true`"):
        newest_readable(last.parent)


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_a_damaged_last_never_takes_the_place_of_the_good_one(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the run that resumed is killed while it saves for the first time."""
    flip(last, 3000)
    start = newest_readable(last.parent)
    assert start is not None
    set_aside_damaged(start)
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "last.ckpt":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(state(3), last)
    assert newest_readable(last.parent) == start and read(start)["global_step"] == 1
    write_checkpoint(state(3), last)
    assert steps(last) == [3, 1]
    write_checkpoint(state(4), last)
    assert steps(last) == [4, 3]


def test_a_run_sets_a_damaged_last_aside(warm: Launcher, data: Path, tmp_path: Path) -> None:
    command = ["fit", *options("text", data, tmp_path), "--save_every=1"]
    warm.run("text", command, Fault("step", 3, "raise"))
    folder = run_directory(tmp_path) / "checkpoints"
    flip(folder / "last.ckpt", 3000)
    output = succeeded(warm.run("text", command))
    assert "is damaged" in output and "from previous.ckpt: step 2," in output
    assert (folder / "last.ckpt.damaged").is_file()
    assert steps(folder / "last.ckpt")[0] == 10
    # So does a finished one, which is then no longer finished until it is again.
    finished = folder.parent / "finished.json"
    assert finished.is_file()
    flip(folder / "last.ckpt", 3000)
    warm.run("text", command, Fault("writing", 10, "full"))
    assert not finished.is_file()
    succeeded(warm.run("text", command))
    assert finished.is_file() and steps(folder / "last.ckpt")[0] == 10


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user who may not read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """As `last`, in a folder that every user may look into."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "last.ckpt"
        for step in (1, 2):
            write_checkpoint(state(step), path)
        os.chmod(folder, 0o777)
        yield path


def names_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_cannot_be_read_now_is_not_damaged(shared: Path, which: str) -> None:
    """A file, or folder, that the user may not read just now: nothing is set aside for it."""
    before = names_in(shared.parent)
    locked = shared if which == "file" else shared.parent
    mode = locked.stat().st_mode
    os.chmod(locked, 0)
    said = r"Expected to read .*last\.ckpt, but got: Permission denied\. It was left as it is"
    try:
        with unprivileged(), pytest.raises(ValueError, match=said):
            newest_readable(shared.parent)
    finally:
        os.chmod(locked, mode)
    assert names_in(shared.parent) == before
    with unprivileged():
        assert newest_readable(shared.parent) == shared


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_an_error_of_the_disk_is_no_damage(
    last: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def read(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io.zipfile.ZipFile, "testzip", read)
        with pytest.raises(ValueError, match=f"got: {os.strerror(number)}. It was left as it is"):
            newest_readable(last.parent)
    assert newest_readable(last.parent) == last


def test_a_run_leaves_alone_what_it_cannot_read(warm: Launcher, data: Path, tmp_path: Path) -> None:
    command = options("text", data, tmp_path)
    succeeded(warm.run("text", ["fit", *command, "--save_every=4"]))
    folder = run_directory(tmp_path) / "checkpoints"
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to("/proc/self/mem")  # Reading it fails, whoever does.
    for subcommand in ("fit", "test"):
        process = warm.run("text", [subcommand, *command])
        said = f"error: Expected to read {folder / 'last.ckpt'}, but got: "
        assert process.code == 1 and said in process.output(), process.output()
        assert "previous.ckpt, the checkpoint" not in process.output()
    assert (folder / "last.ckpt").is_symlink() and not list(folder.glob("*.damaged"))
    assert (folder.parent / "finished.json").is_file()


def test_every_bit_of_the_weights_is_guarded(last: Path) -> None:
    content = last.read_bytes()
    start = content.find(torch.full((8,), 2.0).numpy().tobytes())
    assert start > 0
    for place in range(start, start + 8000, 1999):
        flip(last, place)
        assert damage_of(last) is not None
        last.write_bytes(content)
    assert damage_of(last) is None


def test_where_there_are_no_links(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    write_checkpoint(state(3), last)
    assert steps(last) == [3, 2]


def test_parts_of_killed_processes_are_removed(last: Path) -> None:
    for name in ("last.ckpt.77.part", "previous.ckpt.78.part"):
        (last.parent / name).write_bytes(b"x")
    (last.parent / "mine.part").write_bytes(b"x")
    remove_parts(last.parent)
    names = {path.name for path in last.parent.iterdir()}
    assert names == {"last.ckpt", "previous.ckpt", "mine.part"}


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": 1, "epoch": 0, "evil": Evil()}, path)
    assert damage_of(path) is not None
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint_io.DurableCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_differences_of_recipes_are_named() -> None:
    stored = {"model": {"optimizer": {"lr": 0.1}, "cnsn": {"kind": "cn"}}, "start": "/a"}
    asked = {"model": {"optimizer": {"lr": 0.2}}, "data": {"batch_size": 4}}
    assert list(differences(stored, asked)) == [
        ("data.batch_size", "the default", 4),
        ("model.cnsn.kind", "cn", "the default"),
        ("model.optimizer.lr", 0.1, 0.2),
    ]
