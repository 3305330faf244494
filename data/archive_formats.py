"""Read tar, tar.gz and zip files of unknown origin, member by member.

Formats: POSIX pax and ustar; PKWARE's APPNOTE.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import IO, cast

from data.archive_members import ArchiveError, Member

__all__ = ["DAMAGED", "members"]

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
