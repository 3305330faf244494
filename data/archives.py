"""Read and unpack archives of data sets without trusting anything in them.

Tar, tar.gz and zip, member by member; each passes a gate before it is written. :func:`unpack` gives
a folder its final name only when every member of the archive was accepted and written. Whatever
fails before that leaves the root as it was. Formats: POSIX pax and ustar; PKWARE's APPNOTE.

The gate is our own: tarfile's data filter lets links inside, second names for one file, damage,
bombs and names that some file systems read otherwise pass (20 of the 47 hostile tars of the tests),
and zipfile has none.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast

from data.files import BLOCK, byte_bar, format_bytes

__all__ = [
    "ArchiveError",
    "read_members",
    "remove_leftovers",
    "unpack",
]

WORKSPACE = ".unpacking-"  # prefix of the temporary folders that `unpack` makes
# Limits: bytes unpacked and members, folders in a member's path, bytes unpacked per byte of
# archive, and the bytes below which those are of no concern.
LARGEST = 256 << 30
MOST = 2_000_000
DEEPEST = 32
RATIO = 200
SMALL_BYTES = 1 << 20


def unpack(
    archive: Path | str,
    root: Path | str,
    *,
    folder: str | None = None,
    max_bytes: int = LARGEST,
    max_members: int = MOST,
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
        gate = Gate(archive.stat().st_size, max_bytes, max_members)
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
) -> Generator[tuple[str, bytes], None, None]:
    """Name and content of the wanted files of a .tar, .tar.gz or .zip file, without unpacking it.

    Args:
        archive: the file.
        wanted: whether the file of this name is read; the others are passed over.
        max_bytes: limit on the size of one wanted file, in bytes.

    Raises:
        ArchiveError: the archive is damaged or refused, by the rules of :func:`unpack`.
    """
    archive = Path(archive)
    gate = Gate(archive.stat().st_size)
    with _read(archive) as found:
        for member in found:
            gate.admit(member)
            if member.kind == "file" and wanted(member.name):
                if member.size > max_bytes:
                    raise ArchiveError(f"{member.name!r} has more than {format_bytes(max_bytes)}")
                yield member.name, b"".join(_blocks(member))


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


def _blocks(member: Member) -> Iterator[bytes]:
    """What the file holds, if that has the size declared."""
    source = member.open()
    assert source is not None  # only regular files come here
    left = member.size
    with source:
        while block := source.read(BLOCK):
            if (left := left - len(block)) < 0:
                break
            yield block
    if left:
        raise ArchiveError(f"{member.name!r} has not the {member.size} bytes that it declares")


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
    with path.open("xb") as file:
        file.writelines(_blocks(member))


HEADER_BYTES = 1 << 20  # bytes of tar headers before one member; a real one needs a few thousand


# What the readers raise at malformed input.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    RecursionError,
    OverflowError,
    ValueError,
)


def members(archive: Path) -> Generator[Member, None, None]:
    """The members of an archive in order, by the format that its first bytes show."""
    with archive.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        if magic in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _zip_members(file)
        elif magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as plain:
                yield from _tar_members(cast(IO[bytes], plain))
                # To the end, where gzip keeps the checksum of it all; tar pads by a few blocks.
                if len(plain.read(HEADER_BYTES + 1)) > HEADER_BYTES:
                    raise ArchiveError("it goes on after its end")
        else:
            yield from _tar_members(file)


class _Metered:
    """A file from which tarfile reads only so many bytes on its way to the next member.

    A header may declare any length for a name or comment, and tarfile would read it into memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left: int | None = HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            self.left -= size
            if size < 0 or self.left < 0:
                raise ArchiveError("a header in it is longer than any real one")
        return self.file.read(size)


def _tar_members(file: IO[bytes]) -> Generator[Member, None, None]:
    metered = _Metered(file)
    with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:", encoding="utf-8") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else a gigabyte for a million files
            metered.left = None
            size = info.size if info.isreg() else 0
            yield Member(info.name, _tar_kind(info), size, partial(tar.extractfile, info))
            metered.left = HEADER_BYTES
        # tarfile takes damage between two members for the end, which is a block of zeros.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ArchiveError("it is damaged or cut short: its end mark is missing")


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return f"a link to {info.linkname!r}"
    if info.issparse():
        return "a sparse file"
    return "file" if info.isreg() else "folder" if info.isdir() else "a device or pipe"


def _zip_members(file: IO[bytes]) -> Generator[Member, None, None]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename != info.orig_filename:  # cut at a NUL, or a second name inside
                raise ArchiveError(f"{info.orig_filename!r} carries two different names")
            yield Member(
                info.filename, _zip_kind(info), info.file_size, partial(archive.open, info)
            )


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # Unix file type; 0 where made elsewhere
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device or pipe"
    if info.flag_bits & 0x1:
        return "encrypted"
    return "folder" if info.is_dir() else "file"


class ArchiveError(ValueError):
    """An archive is damaged, hostile, or would overwrite something; nothing of it was kept."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive, before it is trusted."""

    name: str
    kind: str  # "file", "folder", or what else it is
    size: int = 0  # bytes, as declared
    open: Callable[[], IO[bytes] | None] = lambda: None


@dataclass
class Gate:
    """Admits members one by one, within the limits; holds what was admitted so far."""

    archive_bytes: int
    max_bytes: int = LARGEST
    max_members: int = MOST
    members: int = 0
    total: int = 0  # bytes declared
    kinds: dict[str, str] = field(default_factory=dict)  # "file" or "folder" of each path

    def admit(self, member: Member) -> tuple[str, ...]:
        """The member's path as safe parts; `ArchiveError` where it is refused."""
        self.members += 1
        self.total += member.size
        if member.kind not in ("file", "folder"):
            raise ArchiveError(f"{member.name!r} is {member.kind}, not a file or folder")
        if self.members > self.max_members:
            raise ArchiveError(f"it has more than {self.max_members} members")
        if member.size < 0 or self.total > self.max_bytes:
            raise ArchiveError(f"it unpacks to more than {format_bytes(self.max_bytes)}")
        if self.total > max(SMALL_BYTES, RATIO * self.archive_bytes):
            raise ArchiveError(f"it unpacks to more than {RATIO} times its size, as bombs do")
        parts = safe_parts(member.name)
        if not parts and member.kind == "file":
            raise ArchiveError(f"the name {member.name!r} is not one of a file")
        self._remember(parts, member)
        return parts

    def _remember(self, parts: tuple[str, ...], member: Member) -> None:
        # Compared as a file system that ignores case or Unicode form would: there, one of two
        # such names hides the other.
        keys = [unicodedata.normalize("NFKC", part).casefold() for part in parts]
        for depth in range(1, len(keys)):
            if self.kinds.setdefault("/".join(keys[:depth]), "folder") == "file":
                raise ArchiveError(f"{member.name!r} lies below a file")
        path = "/".join(keys)
        if self.kinds.get(path, member.kind) != member.kind or self.kinds.get(path) == "file":
            raise ArchiveError(f"{member.name!r} is there twice, and one would hide the other")
        self.kinds[path] = member.kind


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a path that stays below the folder it is joined to, on any file system."""
    plain = name.isascii() and name.isprintable()
    # Some file systems normalise Unicode: what looks harmless here may become `..` or `/` there.
    normal = name if plain else unicodedata.normalize("NFKC", name)
    if not plain and any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
        raise ArchiveError(f"the name {name!r} has invisible or undecodable characters")
    if "\\" in normal or normal.count("/") != name.count("/"):
        raise ArchiveError(f"the name {name!r} has backslashes or disguised slashes")
    if normal.startswith("/") or (normal[1:2] == ":" and normal[:1].isalpha()):
        raise ArchiveError(f"the name {name!r} is an absolute path")
    if ".." in normal.split("/"):
        raise ArchiveError(f"the name {name!r} leads out of the folder")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not name or len(name) > 1024 or len(parts) > DEEPEST:
        raise ArchiveError(f"the name {name[:80]!r} is empty, too long or too deep")
    if any(part.endswith((" ", ".")) or len(part.encode()) > 255 for part in parts):
        raise ArchiveError(f"the name {name[:80]!r} is one that not every file system can hold")
    return parts
