"""Download files from hosts that nobody here controls.

:func:`download` gives a file its final name only when it is complete and has the published
checksum. Whatever fails before that leaves the folder as it was, save for a `.part` file from which
the next call continues. HTTP ranges and their validators: RFC 9110, sections 13 and 14,
https://www.rfc-editor.org/rfc/rfc9110.

On requests, which knows proxies, redirects and certificates. To continue where a body broke off is
our own: urllib3's Retry repeats a request up to its headers alone, fails at a wrong Retry-After and
knows no progress; pooch starts again from zero and replaces a file that differs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from urllib3.exceptions import HTTPError

from data.files import BLOCK, byte_bar, format_bytes

__all__ = [
    "DownloadError",
    "difference",
    "download",
    "verify",
]

PROGRESS = 1 << 20  # bytes by which an attempt must advance to count as progress


LONGEST_WAIT = 60.0  # seconds between two attempts, at most


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
    require_https(url, allow_local_http)
    destination = Path(destination)
    if os.path.lexists(destination):
        verify(destination, sha256=sha256, md5=md5, size=size)
        return destination
    part = destination.with_name(destination.name + ".part")
    transfer = Transfer(url, part, size, sha256 or md5, timeout, progress, allow_local_http)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = transfer.prepare()
        while True:
            _persist(transfer, retries, backoff)
            wrong = difference(part, sha256=sha256, md5=md5, size=size)
            if not wrong:
                break
            part.unlink()  # complete and wrong: there is nothing to continue
            if not resumed:
                raise transfer.changed(
                    f"gave a file that is not the published one ({wrong}) and was removed"
                )
            resumed = False  # the old beginning may be another version: once more, from zero
        os.replace(part, destination)
    except OSError as error:
        raise DownloadError(
            f"{destination} could not be written ({error.strerror or error}): free space or "
            "choose another folder, then run the same command again to continue."
        ) from error
    return destination


def _persist(transfer: Transfer, retries: int, backoff: float) -> None:
    """Attempt until the file is complete, or `retries` further attempts brought nothing new."""
    failures, best = 0, transfer.offset
    while True:
        try:
            return transfer.attempt()
        except TryAgainError as problem:
            # Measured against the longest reach so far: a server that always starts at zero and
            # always breaks off makes no progress, however many bytes it sends.
            failures = 1 if transfer.offset >= best + PROGRESS else failures + 1
            best = max(best, transfer.offset)
            if failures > retries:
                kept = transfer.checked and transfer.offset
                way = f" to continue from {format_bytes(kept)}" if kept else ", or try a mirror"
                raise DownloadError(
                    f"{transfer.url} could not be downloaded: {problem} (gave up after {failures} "
                    f"attempts); check the connection and run the same command again{way}."
                ) from problem
            time.sleep(min(LONGEST_WAIT, max(problem.wait, backoff * 2 ** (failures - 1))))


LARGE_BYTES = 1 << 30  # of a file whose checksum takes long enough for a progress bar


class DownloadError(RuntimeError):
    """A file could not be downloaded, or is not the published one; the message says the remedy."""


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


class TryAgainError(Exception):
    """A failure that may pass; `wait` is the number of seconds that the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def require_https(url: str, allow_local_http: bool) -> None:
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


class _Https(requests.Session):
    """Goes where `download` would, redirects included, and trusts whom the system trusts."""

    def __init__(self, allow_local_http: bool) -> None:
        super().__init__()
        self.allow_local_http = allow_local_http
        self.max_redirects = 10
        # Those that SSL_CERT_FILE names, or the system's; certifi's where it has none.
        self.verify = ssl.get_default_verify_paths().cafile or True
        self.headers.update({"Accept-Encoding": "identity", "Connection": "close"})

    def get_adapter(self, url: str) -> BaseAdapter:
        require_https(url, self.allow_local_http)
        return super().get_adapter(url)


@dataclass
class Transfer:
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
        self.session = _Https(self.allow_local_http)

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
        """One request; returns when `part` is complete, `TryAgainError` where another may help."""
        offset = self.offset
        if self.size is not None and offset == self.size:
            return
        headers = {}
        if offset and self.ranges:
            headers["Range"] = f"bytes={offset}-"
            if self.validator:
                headers["If-Range"] = self.validator
        try:
            response = self.session.get(
                self.url, headers=headers, stream=True, timeout=self.timeout
            )
            with response:
                self._receive(response, offset)
        except (requests.RequestException, HTTPError, ValueError) as error:
            raise self._network_problem(error) from error

    def _receive(self, response: requests.Response, offset: int) -> None:
        if response.status_code == 416 and offset:  # nothing lies beyond what is here
            if _integer(response.headers.get("Content-Range", "").rpartition("/")[2]) == offset:
                return
            self.ranges = False
            raise TryAgainError("the server cannot continue the earlier download")
        start, total = self._announced(response, offset)
        body = response.raw
        body.enforce_content_length = False  # it is compared below
        # read1: what has arrived is written at once, so that a later silence loses nothing.
        block = body.read1(BLOCK)
        self._refuse_html(response.headers.get("Content-Type", ""), block if start == 0 else b"")
        self._require_space(total, start)
        self.validator = _strong_validator(response)
        name = self.part.name.removesuffix(".part")
        bar = byte_bar(name, total, start=start, shown=self.progress)
        with bar, self.part.open("ab" if start else "wb") as file:
            while block:
                if total is not None and file.tell() + len(block) > total:
                    raise self.changed(f"sends more than the {total} bytes expected")
                file.write(block)
                bar.update(len(block))
                block = body.read1(BLOCK)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and self.offset < total:
            raise TryAgainError(f"the connection ended after {self.offset} of {total} bytes")

    def _announced(self, response: requests.Response, offset: int) -> tuple[int, int | None]:
        """Where the body starts in the file, and how long the whole file is, in bytes."""
        start, total = 0, _integer(response.headers.get("Content-Length"))
        if response.status_code >= 400:
            raise self._status_problem(response)
        if response.status_code == 206:
            span, _, whole = response.headers.get("Content-Range", "").partition("/")
            start = _integer(span.removeprefix("bytes").strip().partition("-")[0]) or 0
            if start != offset:
                self.ranges = False
                raise TryAgainError(f"the server continued at byte {start} instead of {offset}")
            total = _integer(whole) or (None if total is None else start + total)
        elif response.status_code != 200:
            raise DownloadError(f"{self.url} answered {response.status_code} instead of the file.")
        if self.size is not None and total not in (None, self.size):
            raise self.changed(f"offers {total} bytes where the published file has {self.size}")
        if total is None and self.size is None and not self.checked:
            raise DownloadError(
                f"{self.url} does not say how long the file is and no checksum is known, so a cut "
                "download would go unnoticed; download it by hand or use another mirror."
            )
        return start, self.size if total is None else total

    def changed(self, how: str) -> DownloadError:
        return DownloadError(
            f"{self.url} {how}: the file at its source has changed or is damaged; try again "
            "later, or another mirror."
        )

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

    def _status_problem(self, response: requests.Response) -> Exception:
        code = response.status_code
        status = f"{code} {_printable(response.reason)}".strip()
        if code in (408, 425, 429) or code >= 500:
            wait = _integer(response.headers.get("Retry-After")) or 0
            return TryAgainError(f"the server answered {status}", wait)
        return DownloadError(
            f"{self.url} could not be downloaded: the server answered {status}; the file may have "
            "moved: look for it at its source, or use another mirror."
        )

    def _network_problem(self, error: BaseException) -> Exception:
        if isinstance(error, requests.TooManyRedirects) and error.response is not None:
            return self._status_problem(error.response)
        if isinstance(error, ValueError):
            return DownloadError(
                f"{self.url} is no valid address, or leads to one that is not "
                f"({_printable(str(error))}): correct it."
            )
        while error.__context__ is not None:  # what the libraries have wrapped
            error = error.__context__
        if isinstance(error, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{self.url} could not be trusted ({error.verify_message}): check the clock and "
                "the system's certificates, or set SSL_CERT_FILE to those of your network."
            )
        if isinstance(error, TimeoutError):
            return TryAgainError(f"the server sent nothing for {self.timeout:g} s")
        return TryAgainError(_printable(str(error)) or type(error).__name__)


def _printable(text: str | None) -> str:
    """What a server says, which may not steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in (text or "")[:200]).strip()


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _strong_validator(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")
