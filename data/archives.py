"""Unpack the archives of data sets, or read members of them, without trusting anything in them.

:func:`unpack` gives a folder its final name only when every member of the archive was accepted and
written. Whatever fails before that leaves the root as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from data.archive_formats import DAMAGED, members
from data.archive_members import ArchiveError, Gate, Member, safe_parts
from data.checksums import BLOCK, byte_bar, format_bytes

__all__ = ["ArchiveError", "read_members", "remove_leftovers", "unpack"]

WORKSPACE = ".unpacking-"  # prefix of the temporary folders that `unpack` makes


def unpack(
    archive: Path | str,
    root: Path | str,
    *,
    folder: str | None = None,
    max_bytes: int = 256 << 30,
    max_members: int = 2_000_000,
    max_ratio: float = 200.0,
    expected: int | None = None,
) -> Path:
    """Unpack a .tar, .tar.gz or .zip file (told by its content) into one new folder below `root`.

    Everything is written into a temporary folder inside `root`, which is renamed when the whole
    archive was accepted and removed otherwise. Only regular files and folders are accepted: no
    links of any kind, since data sets need none and they are how an archive reaches outside.
    Owners, permissions and dates in the archive are not used.

    Args:
        archive: the file.
        root: the folder to unpack below; created if missing.
        folder: what the new folder is called, as a path relative to `root`. None means the
            archive's own top folder, of which there must be exactly one.
        max_bytes: limit on the unpacked size, in bytes.
        max_members: limit on the number of files and folders.
        max_ratio: limit on unpacked bytes per byte of archive.
        expected: bytes that the content takes, for the progress bar.

    Returns:
        The new folder.

    Raises:
        ArchiveError: the archive is damaged or refused, or the folder exists; `root` is unchanged.
        OSError: the disk is full or not writable; `root` is unchanged.
    """
    archive, root = Path(archive), Path(root)
    if folder is not None:
        if not safe_parts(folder):
            raise ArchiveError(f"Expected `folder` to name one below the root, but got {folder!r}.")
        _require_absent(root.joinpath(*safe_parts(folder)))
    if not archive.is_file():
        raise ArchiveError(f"There is no archive {archive}: download it first.")
    root.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=WORKSPACE, dir=root))
    try:
        content = workspace / "content"
        content.mkdir()
        gate = Gate(archive.stat().st_size, max_bytes, max_members, max_ratio)
        try:
            _extract(archive, content, gate, expected)
        except ArchiveError as error:
            raise ArchiveError(
                f"Refused {archive.name}: {error}. Nothing was unpacked; delete {archive} and "
                "download it again from its original source."
            ) from error
        source, target = _new_folder(archive, content, root, folder)
        _require_absent(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return target


def remove_leftovers(root: Path | str) -> None:
    """Remove what killed calls of `unpack` left in `root`; only while no other one runs there."""
    for workspace in Path(root).glob(WORKSPACE + "*"):
        shutil.rmtree(workspace, ignore_errors=True)


def read_members(
    archive: Path | str,
    wanted: Callable[[str], bool],
    max_bytes: int,
    *,
    max_members: int = 2_000_000,
    max_ratio: float = 200.0,
) -> Generator[tuple[str, bytes], None, None]:
    """Name and content of the wanted files of a .tar, .tar.gz or .zip file, without unpacking it.

    Args:
        archive: the file.
        wanted: whether the file of this name is read; the others are passed over.
        max_bytes: limit on the size of one wanted file, in bytes.
        max_members: limit on the number of files and folders.
        max_ratio: limit on unpacked bytes per byte of archive.

    Raises:
        ArchiveError: the archive is damaged or refused, by the rules of :func:`unpack`.
    """
    archive = Path(archive)
    gate = Gate(archive.stat().st_size, 256 << 30, max_members, max_ratio)
    with _read(archive) as found:
        for member in found:
            gate.admit(member)
            if member.kind == "file" and wanted(member.name):
                yield member.name, _content(member, max_bytes)


@contextmanager
def _read(archive: Path) -> Iterator[Iterator[Member]]:
    """An archive's members; what their formats' readers raise becomes `ArchiveError`."""
    try:
        with closing(members(archive)) as found:
            yield found
    except ArchiveError:
        raise
    except DAMAGED as error:
        raise ArchiveError(
            f"it is damaged, cut short, or not a .tar, .tar.gz or .zip file ({error})"
        ) from error


def _content(member: Member, max_bytes: int) -> bytes:
    if member.size > max_bytes:
        raise ArchiveError(f"{member.name!r} has more than {format_bytes(max_bytes)}")
    source = member.open()
    assert source is not None  # only regular files come here
    with source:
        content = source.read(member.size + 1)
    if len(content) != member.size:
        raise ArchiveError(f"{member.name!r} has not the {member.size} bytes that it declares")
    return content


def _require_absent(target: Path) -> None:
    if os.path.lexists(target):
        raise ArchiveError(
            f"{target} exists already and is never overwritten: move it away, then run again."
        )


def _new_folder(archive: Path, content: Path, root: Path, folder: str | None) -> tuple[Path, Path]:
    """Which folder of the unpacked content gets which final name."""
    entries = list(content.iterdir())
    only = entries[0] if len(entries) == 1 and entries[0].is_dir() else None
    if folder is None:
        if only is None:
            raise ArchiveError(
                f"{archive.name} has no single top folder (found {len(entries)} entries): pass "
                "`folder` to name the one it is unpacked into."
            )
        return only, root / only.name
    target = root.joinpath(*safe_parts(folder))
    return (only if only is not None and only.name == target.name else content), target


def _extract(archive: Path, content: Path, gate: Gate, expected: int | None = None) -> None:
    """Write every member below `content`; `ArchiveError` at the first one refused."""
    with byte_bar(f"unpacking {archive.name}", expected) as bar, _read(archive) as found:
        for member in found:
            path = content.joinpath(*gate.admit(member))
            if member.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
            else:
                _write(member, path)
                bar.update(member.size)
    if "file" not in gate.kinds.values():
        raise ArchiveError("it holds no files")


def _write(member: Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # only regular files come here
    written = 0
    with source, path.open("xb") as file:
        while block := source.read(BLOCK):
            written += len(block)
            if written > member.size:
                break
            file.write(block)
    if written != member.size:
        raise ArchiveError(f"{member.name!r} has not the {member.size} bytes that it declares")
