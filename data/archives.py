"""Download, verify and unpack the files of data sets that come from hosts nobody here controls.

`download` gives a file its final name only when it is complete and has the published checksum;
`unpack` gives a folder its final name only when every member of the archive was accepted and
written. Whatever fails before that leaves the root as it was, save for a `.part` file from which
the next call continues.

HTTP ranges and their validators: RFC 9110, sections 13 and 14,
https://www.rfc-editor.org/rfc/rfc9110. Archive formats: POSIX pax/ustar, and PKWARE's APPNOTE.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import ssl
import stat
import struct
import tarfile
import tempfile
import time
import unicodedata
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

__all__ = [
    "ArchiveError",
    "DownloadError",
    "difference",
    "download",
    "format_bytes",
    "read_members",
    "remove_leftovers",
    "unpack",
    "verify",
]

_BLOCK = 1 << 20  # bytes moved at a time
_PROGRESS = 1 << 20  # bytes by which an attempt must advance to count as progress
_LONGEST_WAIT = 60.0  # seconds between two attempts, at most
_WORKSPACE = ".unpacking-"  # prefix of the temporary folders that `unpack` makes
_DEEPEST = 32  # folders in a member's path
_HEADER_BYTES = 1 << 20  # bytes of tar headers before one member; a real one needs a few thousand
_LARGE_BYTES = 1 << 30  # of a file whose checksum takes long enough for a progress bar
_SMALL_BYTES = 1 << 20  # content below which the ratio of compression is of no concern


class DownloadError(RuntimeError):
    """A file could not be downloaded, or is not the published one; the message says the remedy."""


class ArchiveError(ValueError):
    """An archive is damaged, hostile, or would overwrite something; nothing of it was kept."""


class _TryAgainError(Exception):
    """A failure that may pass; `wait` is the number of seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def format_bytes(count: float) -> str:
    """`count` bytes for people, in binary units: 2918471680 -> "2.7 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


# ---------------------------------------------------------------------------------- verification


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
        bar = tqdm(
            total=found,
            desc=f"checking {path.name}",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=True if found < _LARGE_BYTES else None,
        )
        with bar, path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                bar.update(len(block))
        if digest.hexdigest() != expected.lower():
            return f"its {name} is {digest.hexdigest()}, expected {expected}"
    return ""


# -------------------------------------------------------------------------------------- download


def download(
    url: str,
    destination: Path | str,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    timeout: float = 30.0,
    retries: int = 5,
    backoff: float = 1.0,
    progress: bool = True,
    allow_local_http: bool = False,
) -> Path:
    """Download `url` to `destination`, continuing an earlier attempt where there is one.

    Bytes go to `destination` + ".part", which is renamed when length and checksums are right and
    kept when the connection fails. A `destination` that is there and passes the checks is
    returned without touching the network; one that does not pass is never overwritten. Without
    a checksum a `.part` file of an earlier call is not continued, because a mix of two versions
    would go unnoticed. Callers keep two processes from the same destination (see data.prepare).

    Args:
        url: https only, and so are redirects.
        destination: the file to make; its folder is created.
        sha256, md5, size: what the publisher says of the file; see :func:`verify`.
        timeout: seconds that the server may stay silent; however slow, it may take its time.
        retries: attempts after a failed one without progress in between.
        backoff: seconds before the second attempt, doubled each time, at most a minute.
        progress: show a bar on a terminal.
        allow_local_http: for tests: permit http to 127.0.0.1.

    Returns:
        `destination`.

    Raises:
        DownloadError: one sentence that says what failed and what to do.
    """
    _require_https(url, allow_local_http)
    destination = Path(destination)
    if os.path.lexists(destination):
        verify(destination, sha256=sha256, md5=md5, size=size)
        return destination
    part = destination.with_name(destination.name + ".part")
    transfer = _Transfer(url, part, size, sha256 or md5, timeout, progress, allow_local_http)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = transfer.prepare()
        _persist(transfer, retries, backoff)
        wrong = difference(part, sha256=sha256, md5=md5, size=size)
        if wrong and resumed:  # the old beginning may be another version: once more, from zero
            part.unlink()
            _persist(transfer, retries, backoff)
            wrong = difference(part, sha256=sha256, md5=md5, size=size)
        if wrong:
            part.unlink()  # complete and wrong: there is nothing to continue
            raise DownloadError(
                f"{url} gave a file that is not the published one ({wrong}); it was removed. The "
                "file at its source has changed or is damaged: try again later, or another mirror."
            )
        os.replace(part, destination)
    except OSError as error:
        raise DownloadError(
            f"{destination} could not be written ({error.strerror or error}): free space or "
            "choose another folder, then run the same command again to continue."
        ) from error
    return destination


def _require_https(url: str, allow_local_http: bool) -> None:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    local = allow_local_http and (scheme, host) == ("http", "127.0.0.1")
    if not local and (scheme != "https" or not host):
        raise DownloadError(
            f"Refused {url}: only https addresses are downloaded from, because anyone on the way "
            "can change what plain http delivers; use an https mirror."
        )


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where `download` would have gone by itself."""

    def __init__(self, allow_local_http: bool) -> None:
        self.allow_local_http = allow_local_http

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            _require_https(newurl, self.allow_local_http)
        except DownloadError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _persist(transfer: _Transfer, retries: int, backoff: float) -> None:
    """Attempt until the file is complete, or `retries` further attempts brought nothing new."""
    failures, best = 0, transfer.offset
    while True:
        try:
            return transfer.attempt()
        except _TryAgainError as problem:
            # Measured against the longest reach so far: a server that always starts at zero and
            # always breaks off makes no progress, however many bytes it sends.
            progressed = transfer.offset >= best + _PROGRESS
            best = max(best, transfer.offset)
            failures = 1 if progressed else failures + 1
            if failures > retries:
                kept = transfer.part.exists() and transfer.checked
                raise DownloadError(
                    f"{transfer.url} could not be downloaded: {problem} (gave up after {failures} "
                    f"attempts); check the connection and run the same command again"
                    + (
                        f" to continue from {format_bytes(transfer.offset)}."
                        if kept
                        else ", or try another mirror."
                    )
                ) from problem
            time.sleep(min(_LONGEST_WAIT, max(problem.wait, backoff * 2 ** (failures - 1))))


@dataclass
class _Transfer:
    """One file on its way: every attempt appends to `part`."""

    url: str
    part: Path
    size: int | None  # bytes, as published
    checked: str | None  # the checksum that will be compared at the end, if any
    timeout: float
    progress: bool
    allow_local_http: bool
    validator: str | None = None  # ETag or date of the version that `part` holds
    ranges: bool = True  # until the server shows that it cannot continue in the middle

    def __post_init__(self) -> None:
        # urllib rather than a package: one GET at a time needs no pool of connections, it obeys
        # the proxy variables, and this context verifies certificate and host name against the
        # system's authorities whatever another library did to ssl's defaults.
        self.opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            _HttpsRedirects(self.allow_local_http),
        )

    @property
    def offset(self) -> int:
        """Bytes that are here already."""
        return self.part.stat().st_size if self.part.exists() else 0

    def prepare(self) -> bool:
        """Drop an earlier part that cannot be continued; True where one will be."""
        too_long = self.size is not None and self.offset > self.size
        if self.part.exists() and (too_long or not self.checked):
            self.part.unlink()
        return self.offset > 0

    def attempt(self) -> None:
        """One request; returns when `part` is complete, `_TryAgainError` where another may help."""
        offset = self.offset
        if self.size is not None and offset == self.size:
            return
        headers = {"User-Agent": "cnsn-suite (Python urllib)", "Accept-Encoding": "identity"}
        if offset and self.ranges:
            headers["Range"] = f"bytes={offset}-"
            if self.validator:
                headers["If-Range"] = self.validator
        try:
            response = self.opener.open(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout
            )
        except HTTPError as error:
            with error:
                if error.code == 416 and offset:  # nothing lies beyond what is here
                    return self._beyond_the_end(error.headers.get("Content-Range", ""))
                raise self._status_problem(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._network_problem(error) from error
        with response:
            self._receive(response, offset)

    def _receive(self, response: http.client.HTTPResponse, offset: int) -> None:
        start, total = self._announced(response, offset)
        first = self._read(response)
        self._refuse_html(response.headers.get("Content-Type", ""), first if start == 0 else b"")
        self._require_space(total, start)
        self.validator = _strong_validator(response)
        bar = tqdm(
            total=total,
            initial=start,
            desc=self.part.name.removesuffix(".part"),
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=None if self.progress else True,
        )
        with bar, self.part.open("ab" if start else "wb") as file:
            block = first
            while block:
                if total is not None and file.tell() + len(block) > total:
                    raise DownloadError(
                        f"{self.url} sends more than the {total} bytes expected: the file at its "
                        "source has changed; try again later, or another mirror."
                    )
                file.write(block)
                bar.update(len(block))
                block = self._read(response)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and self.offset < total:
            raise _TryAgainError(f"the connection ended after {self.offset} of {total} bytes")

    def _announced(self, response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
        """Where the body starts in the file, and how long the whole file is, in bytes."""
        start, total = 0, _integer(response.headers.get("Content-Length"))
        if response.status == 206:
            span, _, whole = response.headers.get("Content-Range", "").partition("/")
            start = _integer(span.removeprefix("bytes").strip().partition("-")[0]) or 0
            if start != offset:
                self.ranges = False
                raise _TryAgainError(f"the server continued at byte {start} instead of {offset}")
            total = _integer(whole) or (None if total is None else start + total)
        elif response.status != 200:
            raise DownloadError(f"{self.url} answered {response.status} instead of the file.")
        if self.size is not None and total not in (None, self.size):
            raise DownloadError(
                f"{self.url} offers {total} bytes where the published file has {self.size}: the "
                "file at its source has changed; try again later, or another mirror."
            )
        if total is None and self.size is None and not self.checked:
            raise DownloadError(
                f"{self.url} does not say how long the file is and no checksum is known, so a cut "
                "download would go unnoticed; download it by hand or use another mirror."
            )
        return start, self.size if total is None else total

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            # read1: what has arrived is written at once, so that a later silence loses nothing.
            return response.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise self._network_problem(error) from error

    def _refuse_html(self, content_type: str, beginning: bytes) -> None:
        if self.part.name.endswith((".html.part", ".htm.part")):
            return
        text = beginning[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if "html" in content_type.lower() or text.startswith((b"<!doctype html", b"<html")):
            raise DownloadError(
                f"{self.url} answered with a web page instead of the file (a log-in, a quota or a "
                "captive portal): open the address in a browser to see what it asks for, or use "
                "another mirror."
            )

    def _require_space(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free + (0 if start else self.offset)
        if total is not None and total - start > free:
            raise DownloadError(
                f"{self.url} needs {format_bytes(total - start)} but only {format_bytes(free)} are "
                f"free in {self.part.parent}: free space or choose another folder."
            )

    def _beyond_the_end(self, content_range: str) -> None:
        if _integer(content_range.rpartition("/")[2]) == self.offset:
            return
        self.ranges = False
        raise _TryAgainError("the server cannot continue the earlier download")

    def _status_problem(self, error: HTTPError) -> Exception:
        status = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code in (408, 425, 429) or error.code >= 500:
            wait = _integer(error.headers.get("Retry-After")) or 0
            return _TryAgainError(f"the server answered {status}", wait)
        return DownloadError(
            f"{self.url} could not be downloaded: the server answered {status}; the file may have "
            "moved: look for it at its source, or use another mirror."
        )

    def _network_problem(self, error: Exception) -> Exception:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{self.url} could not be trusted ({reason.verify_message}): check the clock and "
                "the system's certificates, or set SSL_CERT_FILE to those of your network."
            )
        if isinstance(reason, http.client.InvalidURL):
            return DownloadError(f"{self.url} is not a valid address ({reason}): correct it.")
        if isinstance(reason, TimeoutError):
            return _TryAgainError(f"the server sent nothing for {self.timeout:g} s")
        # May quote the server: nothing of it may steer the terminal.
        text = "".join(letter if letter.isprintable() else " " for letter in str(reason)[:200])
        return _TryAgainError(text.strip() or type(reason).__name__)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _strong_validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


# ---------------------------------------------------------------------------------------- unpack


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
        if not _safe_parts(folder):
            raise ArchiveError(f"Expected `folder` to name one below the root, but got {folder!r}.")
        _require_absent(root.joinpath(*_safe_parts(folder)))
    if not archive.is_file():
        raise ArchiveError(f"There is no archive {archive}: download it first.")
    root.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=_WORKSPACE, dir=root))
    try:
        content = workspace / "content"
        content.mkdir()
        gate = _Gate(archive.stat().st_size, max_bytes, max_members, max_ratio)
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
    for workspace in Path(root).glob(_WORKSPACE + "*"):
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
    gate = _Gate(archive.stat().st_size, 256 << 30, max_members, max_ratio)
    try:
        with closing(_members(archive)) as members:
            for member in members:
                gate.admit(member)
                if member.kind == "file" and wanted(member.name):
                    yield member.name, _content(member, max_bytes)
    except ArchiveError:
        raise
    except _DAMAGED as error:
        raise ArchiveError(
            f"it is damaged, cut short, or not a .tar, .tar.gz or .zip file ({error})"
        ) from error


def _content(member: _Member, max_bytes: int) -> bytes:
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
    target = root.joinpath(*_safe_parts(folder))
    return (only if only is not None and only.name == target.name else content), target


@dataclass(frozen=True)
class _Member:
    """One entry of an archive, before it is trusted."""

    name: str
    kind: str  # "file", "folder", or what else it is
    size: int = 0  # bytes, as declared
    open: Callable[[], IO[bytes] | None] = lambda: None


@dataclass
class _Gate:
    """Admits members one by one, within the limits; holds what was admitted so far."""

    archive_bytes: int
    max_bytes: int
    max_members: int
    max_ratio: float
    members: int = 0
    total: int = 0  # bytes declared
    kinds: dict[str, str] = field(default_factory=dict)  # "file" or "folder" of each path

    def admit(self, member: _Member) -> tuple[str, ...]:
        """The member's path as safe parts; `ArchiveError` where it is refused."""
        self.members += 1
        self.total += member.size
        if member.kind not in ("file", "folder"):
            raise ArchiveError(f"{member.name!r} is {member.kind}, not a file or folder")
        if self.members > self.max_members:
            raise ArchiveError(f"it has more than {self.max_members} members")
        if member.size < 0 or self.total > self.max_bytes:
            raise ArchiveError(f"it unpacks to more than {format_bytes(self.max_bytes)}")
        if self.total > max(_SMALL_BYTES, self.max_ratio * self.archive_bytes):
            raise ArchiveError(
                f"it unpacks to more than {self.max_ratio:g} times its size, as bombs do"
            )
        parts = _safe_parts(member.name)
        if not parts and member.kind == "file":
            raise ArchiveError(f"the name {member.name!r} is not one of a file")
        self._remember(parts, member)
        return parts

    def _remember(self, parts: tuple[str, ...], member: _Member) -> None:
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


def _safe_parts(name: str) -> tuple[str, ...]:
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
    if not name or len(name) > 1024 or len(parts) > _DEEPEST:
        raise ArchiveError(f"the name {name[:80]!r} is empty, too long or too deep")
    if any(part.endswith((" ", ".")) or len(part.encode()) > 255 for part in parts):
        raise ArchiveError(f"the name {name[:80]!r} is one that not every file system can hold")
    return parts


def _extract(archive: Path, content: Path, gate: _Gate, expected: int | None = None) -> None:
    """Write every member below `content`; `ArchiveError` at the first one refused."""
    bar = tqdm(
        total=expected,
        desc=f"unpacking {archive.name}",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None,
    )
    try:
        with bar, closing(_members(archive)) as members:
            for member in members:
                path = content.joinpath(*gate.admit(member))
                if member.kind == "folder":
                    path.mkdir(parents=True, exist_ok=True)
                else:
                    _write(member, path)
                    bar.update(member.size)
    except ArchiveError:
        raise
    except _DAMAGED as error:
        raise ArchiveError(
            f"it is damaged, cut short, or not a .tar, .tar.gz or .zip file ({error})"
        ) from error
    if "file" not in gate.kinds.values():
        raise ArchiveError("it holds no files")


def _write(member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # only regular files come here
    written = 0
    with source, path.open("xb") as file:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > member.size:
                break
            file.write(block)
    if written != member.size:
        raise ArchiveError(f"{member.name!r} has not the {member.size} bytes that it declares")


def _members(archive: Path) -> Generator[_Member, None, None]:
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
                if len(plain.read(_HEADER_BYTES + 1)) > _HEADER_BYTES:
                    raise ArchiveError("it goes on after its end")
        else:
            yield from _tar_members(file)


class _Metered:
    """A file from which tarfile reads only so many bytes on its way to the next member.

    A header may declare any length for a name or comment, and tarfile would read it into memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left: int | None = _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            self.left -= size
            if size < 0 or self.left < 0:
                raise ArchiveError("a header in it is longer than any real one")
        return self.file.read(size)


def _tar_members(file: IO[bytes]) -> Generator[_Member, None, None]:
    metered = _Metered(file)
    with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:", encoding="utf-8") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else a gigabyte for a million files
            metered.left = None
            size = info.size if info.isreg() else 0
            yield _Member(info.name, _tar_kind(info), size, partial(tar.extractfile, info))
            metered.left = _HEADER_BYTES
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


def _zip_members(file: IO[bytes]) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename != info.orig_filename:  # cut at a NUL, or a second name inside
                raise ArchiveError(f"{info.orig_filename!r} carries two different names")
            yield _Member(
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


# What the readers raise at malformed input.
_DAMAGED = (
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
