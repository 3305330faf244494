"""Downloads from a local server that is slow, breaks off, or has other ranges than it says."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from data.prepare import download as downloads
from data.prepare import download as transfer
from data.prepare.download import DownloadError
from tests.local_server import (
    CONTENT,
    HALF,
    MD5,
    SHA256,
    SIZE,
    Handler,
    Server,
    contents,
    get,
)

pytestmark = pytest.mark.promise(
    "a download that breaks off, stalls or is stopped goes on where it was"
)


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5, "sha256": None}, {}])
def test_download_is_bit_identical(server: Server, tmp_path: Path, known: dict[str, Any]) -> None:
    server.answer = lambda handler, _: handler.file()
    path = get(server, tmp_path / "new" / "folder", size=SIZE, **known)
    assert path.read_bytes() == CONTENT
    assert contents(path.parent) == {"data.tar.gz": CONTENT}


def test_existing_file_is_verified_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == []


def test_existing_other_file_is_never_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz").write_bytes(b"my own notes")
    with pytest.raises(DownloadError, match=r"not the published file.*move it away"):
        get(server, tmp_path)
    assert server.requests == []
    assert contents(tmp_path) == {"data.tar.gz": b"my own notes"}


def test_cut_connection_is_continued_by_range(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, count: handler.file(cut=HALF if count == 0 else None)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={HALF}-"]


def test_interrupted_download_continues_in_the_next_call(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, count: handler.file(cut=HALF)
    with pytest.raises(
        DownloadError, match=r"ended after .*run the same command again to continue"
    ):
        get(server, tmp_path, retries=0)
    assert contents(tmp_path) == {"data.tar.gz.part": CONTENT[:HALF]}
    server.answer = lambda handler, count: handler.file()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={HALF}-"]
    assert contents(tmp_path) == {"data.tar.gz": CONTENT}


def test_interrupt_by_the_user_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda handler, _: handler.file()
    monkeypatch.setattr(transfer.os, "fsync", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path)
    assert contents(tmp_path) == {"data.tar.gz.part": CONTENT}
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "*")
    assert get(server, tmp_path, size=SIZE).read_bytes() == CONTENT
    assert len(server.requests) == 1  # all bytes were there


def raise_interrupt(_: int) -> None:
    raise KeyboardInterrupt


def test_complete_part_of_unknown_size_is_recognised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT)
    server.answer = lambda handler, _: handler.file()  # answers 416
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_stalled_connection_is_given_up_and_continued(server: Server, tmp_path: Path) -> None:
    def stall_once(handler: Handler, count: int) -> None:
        handler.file(cut=HALF if count == 0 else None)
        if count == 0:
            time.sleep(1.0)

    server.answer = stall_once
    start = time.monotonic()
    assert get(server, tmp_path, timeout=0.2).read_bytes() == CONTENT
    assert time.monotonic() - start < 0.9
    assert server.requests == [None, f"bytes={HALF}-"]  # what came before the silence was kept


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_passing_trouble_of_the_server_is_waited_for(
    server: Server, tmp_path: Path, status: int
) -> None:
    def twice(handler: Handler, count: int) -> None:
        if count < 2:
            return handler.reply(b"busy", status=status, Retry_After="0")
        return handler.file()

    server.answer = twice
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT[:1000])
    server.answer = lambda handler, _: handler.reply(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_range_answered_with_another_range_is_not_pasted_in(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT[:1000])

    def shifted(handler: Handler, _: int) -> None:
        if handler.headers.get("Range"):
            span = f"bytes 1001-{SIZE - 1}/{SIZE}"
            return handler.reply(CONTENT[1001:], status=206, Content_Range=span)
        return handler.reply(CONTENT)

    server.answer = shifted
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]


def test_refused_range_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT + b"more than there is")

    def refuse(handler: Handler, _: int) -> None:
        if handler.headers.get("Range"):
            return handler.reply(status=416)
        return handler.reply(CONTENT)

    server.answer = refuse
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_part_of_another_version_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(b"x" * HALF)
    server.answer = lambda handler, _: handler.file()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={HALF}-", None]


def test_part_without_checksum_is_not_trusted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(b"x" * HALF)
    server.answer = lambda handler, _: handler.file()
    assert get(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert server.requests == [None]


def test_file_without_announced_length(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler, _: handler.reply(CONTENT, length=None)
    assert get(server, tmp_path).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="does not say how long"):
        get(server, tmp_path / "unchecked", sha256=None)


def test_redirect_to_an_allowed_address_is_followed(server: Server, tmp_path: Path) -> None:
    def redirect(handler: Handler, count: int) -> None:
        if count == 0:
            return handler.reply(status=302, Location=server.url + "?moved")
        return handler.file()

    server.answer = redirect
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_retries_count_only_attempts_without_progress(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PROGRESS", 1000)
    step = SIZE // 6 + 1
    server.answer = lambda handler, _: handler.file(cut=step)
    assert get(server, tmp_path, retries=1).read_bytes() == CONTENT
    assert len(server.requests) == 6


def test_server_that_always_starts_again_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PROGRESS", 1000)
    server.answer = lambda handler, _: handler.reply(CONTENT[:HALF], length=SIZE)
    with pytest.raises(DownloadError, match="gave up after 2 attempts"):
        get(server, tmp_path, retries=1)


def test_waits_grow_and_obey_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(downloads.time, "sleep", waits.append)
    after = ["0", "30", "100000", "soon"]
    server.answer = lambda handler, count: handler.reply(
        status=503, Retry_After=after[min(count, 3)]
    )
    with pytest.raises(DownloadError):
        get(server, tmp_path, retries=4, backoff=1.0)
    assert waits == [1.0, 30, 60.0, 8.0]


def test_disk_that_fills_up_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", full)
    server.answer = lambda handler, _: handler.file(cut=HALF)
    with pytest.raises(DownloadError, match=r"No space left.*free space"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert contents(tmp_path) == {"data.tar.gz.part": CONTENT[:HALF]}
