"""What `data.prepare` can fetch or make: how a set is described, and what all of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "ZENODO",
    "Made",
    "Published",
    "RemoteFile",
    "among",
    "folder_path",
    "natural",
    "positive",
]

ZENODO = "https://zenodo.org/records/"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a published set.

    Attributes:
        url: https address.
        size: bytes; 0 where no source says it.
        md5, sha256: as published, in hexadecimal; at least one, or `--mirror` is refused.
        folder: the folder below the root that it is unpacked into; None keeps it as it is.
        unpacked: bytes that the folder takes.
        filename: where the address does not end in it.
    """

    url: str
    size: int = 0
    md5: str | None = None
    sha256: str | None = None
    folder: str | None = None
    unpacked: int = 0
    filename: str = ""

    @property
    def name(self) -> str:
        return self.filename or self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A set that others host.

    Attributes:
        title: what it is called.
        about: one line of help: what it is, who made it.
        files: what is downloaded.
        missing: given the root, what is not as published there, in words; "" when all is.
        by_hand: how a person fetches the files, for hosts that forbid doing it automatically.
    """

    title: str
    about: str
    files: tuple[RemoteFile, ...]
    missing: Callable[[Path], str]
    by_hand: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """Data computed here: `add_options` declares its options, `make` does the work."""

    title: str
    about: str
    add_options: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], None]


def folder_path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, but got {text}")
    return number


def among(option: str, asked: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Each of `asked` once.

    Raises:
        ValueError: some are not among `known`.
    """
    names = tuple(dict.fromkeys(asked))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"Expected {option} to be among {', '.join(known)}, but got {', '.join(unknown)}."
        )
    return names


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but got {text}")
    return number
