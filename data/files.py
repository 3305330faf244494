"""Files of unknown origin, and small ones of our own.

Pillow tells a format by content, and knows dozens: it would start Ghostscript for a file that says
it is EPS, whatever its name. Data sets of photographs and labels need the few below.

The largest image that is read is Pillow's own limit, 179 million pixels
(``PIL.Image.MAX_IMAGE_PIXELS`` warns at half of it): a file of some kilobytes may declare more.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import Timeout
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from data.errors import quoted
from data.locks import Lock

__all__ = [
    "UNREADABLE",
    "byte_bar",
    "check_depth",
    "format_bytes",
    "is_hidden",
    "json_text",
    "only_one",
    "open_image",
    "read_record",
    "replacing",
    "require_writable",
    "say",
    "to_rgb",
    "write_record",
]

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")


# What Pillow raises at damaged or hostile files, here and when they are decoded.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    Image.DecompressionBombError,
    UnidentifiedImageError,
)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is the system's own.

    macOS leaves `._<name>` beside files on other file systems, and a folder of them in its zips.
    """
    return name.startswith(".") or name == "__MACOSX"


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """The image, whose pixels are not decoded yet.

    Raises:
        OSError: there is no such file, or it is no image of the formats that data sets have.
        Image.DecompressionBombError: it has more pixels than any image of a data set.
    """
    return Image.open(source, formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """Red, green and blue of 8 bits each; of 16 bits a channel, the upper 8.

    Args:
        image: from :func:`open_image`, not decoded yet.

    Raises:
        ValueError: it is grey of 32 bits, of which Pillow would cut all above 255, or of 16 bits of
            which the upper four are not used.
    """
    deep = _has_16_bits(image)
    if image.mode.startswith("I;16"):  # Pillow would cut these, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, whose range is not known: save it with 8")
    image = image.convert("RGB")
    if deep:
        check_depth(max(high for _, high in image.getextrema()))  # type: ignore[misc]
    return image


def check_depth(brightest: int) -> None:
    """Refuse a picture of 12 bits or fewer in a file of 16, which would be nearly black.

    Args:
        brightest: the upper 8 bits of its largest value.

    Raises:
        ValueError: it is one.
    """
    if brightest < 1 << (12 - 8):
        raise ValueError(
            "it has 16 bits a channel, but all its values are below 4,096, as in a picture of 12 "
            "bits, and it would be nearly black: save it with 8 bits"
        )


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel, of which Pillow keeps the upper 8 of colours."""
    every = (args for *_, args in getattr(image, "tile", ()))
    kinds = [str(args[0] if isinstance(args, tuple) and args else args) for args in every]
    # Of a BMP, "BGR;16" is a pixel of 16 bits in all.
    return any(";16" in kind and not kind.startswith("BGR") for kind in kinds)


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the lock `path`; wait, and say so, while another process holds it."""
    lock = Lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another preparation holds {path}: waiting until it has finished.{lock.way_out()}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder that is read-only, or would have to be made in one that is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    # The mode as well: the superuser may write everywhere, but was not meant to.
    meant = there.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if not (there.is_dir() and meant and os.access(there, os.W_OK)):
        raise PermissionError(f"{there} is not a folder that may be written to: {remedy}.")


BLOCK = 1 << 20  # bytes moved at a time


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


_LARGEST = 1 << 20  # bytes; a real one has some hundred


def json_text(
    value: Any,
    *,
    sort_keys: bool = False,
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """`value` as JSON, which has no NaN and no infinity.

    NaN, where nothing was measured, becomes null; infinity, as an option may be, the string "inf".
    The other arguments are those of :func:`json.dumps`.
    """
    options: dict[str, Any] = {"sort_keys": sort_keys, "indent": indent, "default": default}
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def read_record(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is none.

    Raises:
        ValueError: it is no record.
    """
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} to say how its folder was made, but it is damaged ({quoted(error)}): "
            "delete the folder and make or fetch it again."
        ) from error
    return content


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write it whole or not at all; to be called by one process at a time."""
    with replacing(path) as part:
        part.write_text(json_text(content) + "\n")


@contextmanager
def replacing(path: Path, *, sync: bool = True, mark: object = "") -> Iterator[Path]:
    """Yields a hidden place beside `path` for a file or folder, which becomes `path`, whole.

    Where the block fails, `path` is as it was. What a killed process left at that place goes first.

    Args:
        path: an old file may be there, or an empty folder.
        sync: a file is on the disk before; False for one of thousands, which are made anew.
        mark: keeps apart processes that may write the same at the same time.
    """
    part = path.with_name(f".{path.name}{mark}.part")
    _remove(part)
    try:
        yield part
        if sync and part.is_file():
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        _remove(part)
        raise


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    elif part.exists():
        part.unlink()
