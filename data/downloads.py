"""Download files from hosts that nobody here controls.

:func:`download` gives a file its final name only when it is complete and has the published
checksum. Whatever fails before that leaves the folder as it was, save for a `.part` file from which
the next call continues. One request is data/transfer.py.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from data.checksums import DownloadError, difference, format_bytes, verify
from data.transfer import Transfer, TryAgainError, require_https

__all__ = ["download"]

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


def _persist(transfer: Transfer, retries: int, backoff: float) -> None:
    """Attempt until the file is complete, or `retries` further attempts brought nothing new."""
    failures, best = 0, transfer.offset
    while True:
        try:
            return transfer.attempt()
        except TryAgainError as problem:
            # Measured against the longest reach so far: a server that always starts at zero and
            # always breaks off makes no progress, however many bytes it sends.
            progressed = transfer.offset >= best + PROGRESS
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
            time.sleep(min(LONGEST_WAIT, max(problem.wait, backoff * 2 ** (failures - 1))))
