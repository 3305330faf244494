"""What a publisher says of a file, compared with the file: size and checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["DownloadError", "byte_bar", "difference", "format_bytes", "verify"]

BLOCK = 1 << 20  # bytes moved at a time
LARGE_BYTES = 1 << 30  # of a file whose checksum takes long enough for a progress bar


class DownloadError(RuntimeError):
    """A file could not be downloaded, or is not the published one; the message says the remedy."""


def format_bytes(count: float) -> str:
    """`count` bytes for people, in binary units: 2918471680 -> "2.7 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def byte_bar(what: str, total: int | None, *, start: int = 0, shown: bool = True) -> Any:
    """A bar of the bytes of `total` that are done; on a terminal alone."""
    return tqdm(
        total=total,
        initial=start,
        desc=what,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None if shown else True,
    )


def verify(
    path: Path | str, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> None:
    """Check a file against what its publisher says of it; what is None is not checked.

    Args:
        path: the file.
        sha256, md5: checksums in hexadecimal. MD5 is what most hosts of research data publish: it
            finds damage and mix-ups, and no second file with a given MD5 can be made to order.
        size: bytes.

    Raises:
        DownloadError: the file is missing or differs.
    """
    wrong = difference(Path(path), sha256=sha256, md5=md5, size=size)
    if wrong:
        raise DownloadError(
            f"{path} is not the published file ({wrong}): move it away or delete it, then run "
            "again to download it."
        )


def difference(
    path: Path, *, sha256: str | None = None, md5: str | None = None, size: int | None = None
) -> str:
    """How the file differs from what is expected (see `verify`), in words; "" where it does not."""
    if not path.is_file():
        return "there is no such file"
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        digest = hashlib.new(name, usedforsecurity=False)
        bar = byte_bar(f"checking {path.name}", found, shown=found >= LARGE_BYTES)
        with bar, path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != expected.lower():
            return f"its {name} is {digest.hexdigest()}, expected {expected}"
    return ""
