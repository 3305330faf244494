"""Archives unpacked, and what a failure on the way leaves."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from data import archives
from data.archives import ArchiveError, _tar_members, remove_leftovers, unpack
from tests.archive_bytes import FORMATS, UNPACKED, many, tar_bytes
from tests.local_server import contents


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("folder", [None, "set"])
def test_unpack(tmp_path: Path, name: str, folder: str | None) -> None:
    archive = tmp_path / "archive"  # told by content, not by name
    archive.write_bytes(FORMATS[name])
    assert unpack(archive, tmp_path / "root", folder=folder) == tmp_path / "root" / "set"
    assert contents(tmp_path / "root") == UNPACKED


def test_unpack_several_top_entries_into_a_named_folder(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes([("blur/1.txt", b"1"), ("fog/2.txt", b"2")]))
    with pytest.raises(ArchiveError, match="no single top folder"):
        unpack(archive, tmp_path / "root")
    assert contents(tmp_path / "root") == {}
    target = unpack(archive, tmp_path / "root", folder="weather/all")
    assert contents(target) == {"blur": None, "blur/1.txt": b"1", "fog": None, "fog/2.txt": b"2"}


def test_unpack_ignores_permissions_of_the_archive(tmp_path: Path) -> None:
    info = tarfile.TarInfo("set/program")
    info.mode, info.uid, info.size = 0o6777, 12345, 4
    shut = tarfile.TarInfo("set/shut")
    shut.type, shut.mode = tarfile.DIRTYPE, 0
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes([shut, info, ("set/shut/file", b"x")]))
    unpack(archive, tmp_path)
    mode = (tmp_path / "set" / "program").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)
    assert (tmp_path / "set" / "program").stat().st_uid == os.getuid()
    assert (tmp_path / "set" / "shut" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("folder", [None, "set"])
@pytest.mark.parametrize("obstacle", ["file", "folder", "empty folder", "dangling link"])
def test_unpack_overwrites_nothing(tmp_path: Path, obstacle: str, folder: str | None) -> None:
    root, archive = tmp_path / "root", tmp_path / "a.tar"
    archive.write_bytes(FORMATS["tar"])
    root.mkdir()
    if obstacle == "file":
        (root / "set").write_bytes(b"mine")
    elif obstacle == "dangling link":
        (root / "set").symlink_to(tmp_path / "elsewhere")
    else:
        (root / "set").mkdir()
        if obstacle == "folder":
            (root / "set" / "labels").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=r"exists already.*never overwritten.*move it away"):
        unpack(archive, root, folder=folder)
    assert contents(tmp_path) == before


def test_failure_while_writing_leaves_the_root_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, root = tmp_path / "a.tar", tmp_path / "root"
    archive.write_bytes(FORMATS["tar"])
    root.mkdir()
    write, written = archives._write, []

    def full(member: Any, path: Path) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(member, path)

    monkeypatch.setattr(archives, "_write", full)
    with pytest.raises(OSError, match="No space"):
        unpack(archive, root)
    assert contents(root) == {}


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".unpacking-abc" / "content").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    remove_leftovers(tmp_path)
    assert contents(tmp_path) == {"set": None}


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"):
        unpack(tmp_path / "a.tar", tmp_path / "root")
    assert contents(tmp_path) == {}


def test_memory_stays_flat_over_many_members(tmp_path: Path) -> None:
    import tracemalloc

    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes(many(3000)))
    kept: list[int] = []
    with archive.open("rb") as file:
        tracemalloc.start()
        for i, _ in enumerate(_tar_members(file)):
            if i in (500, 2900):
                kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert kept[1] - kept[0] < 200_000  # 2,400 headers would be above 1 MB
