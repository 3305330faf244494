"""The members of an archive before they are trusted, and the gate that admits them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from data.checksums import format_bytes

__all__ = ["ArchiveError", "Gate", "Member", "safe_parts"]

DEEPEST = 32  # folders in a member's path
SMALL_BYTES = 1 << 20  # content below which the ratio of compression is of no concern


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
    max_bytes: int
    max_members: int
    max_ratio: float
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
        if self.total > max(SMALL_BYTES, self.max_ratio * self.archive_bytes):
            raise ArchiveError(
                f"it unpacks to more than {self.max_ratio:g} times its size, as bombs do"
            )
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
