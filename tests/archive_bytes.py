"""Archives as bytes: good ones of three formats, and the parts that hostile ones are made of."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from typing import Any

from tests.local_server import CONTENT

Entry = tuple[str, bytes] | tarfile.TarInfo
TREE: list[Entry] = [
    ("set/train/a.txt", b"one"),
    ("set/train/b.bin", CONTENT[: 3 * 512]),
    ("set/labels", b""),
    ("set/Größe 3.txt", b"unicode"),
]


def tar_bytes(entries: list[Entry], **options: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry, io.BytesIO(bytes(entry.size)))
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return stream.getvalue()


def zip_bytes(entries: list[tuple[str | zipfile.ZipInfo, bytes]], **options: Any) -> bytes:
    stream = io.BytesIO()
    options = {"compression": zipfile.ZIP_DEFLATED} | options
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in entries:
            archive.writestr(name, content, compress_type=options["compression"])
    return stream.getvalue()


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def special(kind: bytes, name: str = "set/x", link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devmajor, info.devminor = kind, link, 1, 3
    return info


def claims(name: str, size: int) -> bytes:
    """A tar header that declares `size` bytes, which are not there."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def zip_link(target: str) -> bytes:
    info = zipfile.ZipInfo("set/link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zip_bytes([(info, target.encode()), ("set/link/evil.txt", b"evil")])


def zip_device() -> bytes:
    info = zipfile.ZipInfo("set/null")
    info.create_system, info.external_attr = 3, (stat.S_IFCHR | 0o666) << 16
    return zip_bytes([(info, b"")])


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new) and old in content
    return content.replace(old, new)


def long_header(count: int) -> bytes:
    """A pax header of `count` bytes, which a careless reader takes into memory."""
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, count
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(count)


def encrypted_zip() -> bytes:
    content = bytearray(zip_bytes([("set/a", b"x")]))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def lying_zip(size: int) -> bytes:
    """The directory declares `size` bytes of a member that has 5,000."""
    content = bytearray(zip_bytes([("set/a", bytes(5000))]))
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = size.to_bytes(4, "little")
    return bytes(content)


def swapped_zip() -> bytes:
    """Two members whose names differ between the directory and the member itself."""
    content = zip_bytes([("set/a", b"x")])
    at = content.index(b"PK\x01\x02")
    return content[:at].replace(b"set/a", b"../../"[:5]) + content[at:]


def many(count: int) -> list[tuple[str, bytes]]:
    return [(f"set/{i}", b"") for i in range(count)]


FORMATS = {
    "tar": tar_bytes(TREE),
    "tar of ./": tar_bytes([("./" + name, content) for name, content in TREE]),
    "gnu tar": tar_bytes(TREE, format=tarfile.GNU_FORMAT),
    "tar.gz": gz(tar_bytes(TREE)),
    "zip": zip_bytes(TREE),
    "stored zip": zip_bytes(TREE, compression=zipfile.ZIP_STORED),
}
UNPACKED = {
    "set": None,
    "set/Größe 3.txt": b"unicode",
    "set/labels": b"",
    "set/train": None,
    "set/train/a.txt": b"one",
    "set/train/b.bin": CONTENT[: 3 * 512],
}
