"""Downloads from a local server that misbehaves, and archives that attack the folder they go to."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data import archives
from data.archives import (
    ArchiveError,
    DownloadError,
    download,
    format_bytes,
    remove_leftovers,
    unpack,
    verify,
)

# Three reads long and different everywhere, so that a piece that is missing, doubled or out of
# place shows.
CONTENT = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(80_000))
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
HALF = SIZE // 2
HTML = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


class Handler(BaseHTTPRequestHandler):
    """Answers by `server.answer(handler, count)`, where count is the number of earlier requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        count = len(self.server.requests)
        self.server.requests.append(self.headers.get("Range"))
        until_hung_up(lambda: self.server.answer(self, count))

    def reply(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        length: int | None = -1,
        kind: str = "application/gzip",
        **headers: str,
    ) -> None:
        """Send `body`; `length` is what is announced: -1 the truth, None nothing."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def file(self, content: bytes = CONTENT, *, cut: int | None = None) -> None:
        """A well-behaved answer, save that the connection ends after `cut` bytes of the body."""
        span = self.headers.get("Range")
        if span is None:
            return self.reply(content[:cut], length=len(content), ETag='"v1"')
        start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return self.reply(status=416, Content_Range=f"bytes */{len(content)}")
        part = content[start:]
        whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(part[:cut], status=206, length=len(part), Content_Range=whole, ETag='"v1"')

    def log_message(self, *_: Any) -> None:
        pass


def until_hung_up(action: Callable[[], None]) -> None:
    # The client hangs up, as it should on some answers.
    with suppress(BrokenPipeError, ConnectionResetError):
        action()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Callable[[Handler, int], object]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []  # the Range header of each

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.tar.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(server: Server, folder: Path, **options: Any) -> Path:
    defaults: dict[str, Any] = {
        "sha256": SHA256,
        "timeout": 5.0,
        "retries": 3,
        "backoff": 0.001,
        "progress": False,
        "allow_local_http": True,
    }
    return download(server.url, folder / "data.tar.gz", **(defaults | options))


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below `folder`: links by target, files by content, folders as None."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


# ------------------------------------------------------------------------------- good downloads


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
    monkeypatch.setattr(archives.os, "fsync", raise_interrupt)
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


# -------------------------------------------------------------------------------- bad downloads

Answer = Callable[[Handler, int], object]

BAD: dict[str, tuple[Answer, dict[str, Any], str]] = {
    "not found": (
        lambda handler, _: handler.reply(b"?", status=404),
        {},
        "answered 404.*another mirror",
    ),
    "forbidden": (lambda handler, _: handler.reply(status=403), {}, "answered 403"),
    "always busy": (
        lambda handler, _: handler.reply(status=503),
        {},
        "answered 503.*gave up after 4 attempts.*check the connection",
    ),
    "always cut": (
        lambda handler, _: handler.reply(CONTENT[:100], length=SIZE),
        {},
        f"ended after 100 of {SIZE} bytes",
    ),
    "announces more than it has": (
        lambda handler, _: handler.reply(CONTENT, length=SIZE + 1),
        {},
        f"ended after {SIZE} of {SIZE + 1} bytes",
    ),
    "announces less than it has": (
        lambda handler, _: handler.reply(CONTENT, length=SIZE - 1),
        {},
        "not the published one.*sha256",
    ),
    "another length than published": (
        lambda handler, _: handler.file(),
        {"size": SIZE + 7},
        f"offers {SIZE} bytes where the published file has {SIZE + 7}",
    ),
    "sends more than published": (
        lambda handler, _: handler.reply(CONTENT, length=None),
        {"size": SIZE - 7},
        f"sends more than the {SIZE - 7} bytes",
    ),
    "other content": (
        lambda handler, _: handler.file(CONTENT[::-1]),
        {},
        "not the published one.*sha256.*removed",
    ),
    "other content by md5": (
        lambda handler, _: handler.file(CONTENT[::-1]),
        {"sha256": None, "md5": MD5},
        "not the published one.*md5",
    ),
    "web page": (
        lambda handler, _: handler.reply(HTML, kind="text/html; charset=utf-8"),
        {},
        "web page.*browser",
    ),
    "web page by its type": (
        lambda handler, _: handler.reply(b"Quota exceeded", kind="text/html"),
        {},
        "web page",
    ),
    "web page in disguise": (lambda handler, _: handler.reply(HTML), {}, "web page"),
    "no content": (lambda handler, _: handler.reply(status=204), {}, "answered 204"),
    "redirect to http": (
        lambda handler, _: handler.reply(status=302, Location="http://example.org/data.tar.gz"),
        {},
        "Refused http://example.org.*only https",
    ),
    "redirect to a local file": (
        lambda handler, _: handler.reply(status=302, Location="file:///etc/hostname"),
        {},
        "answered 302",
    ),
    "redirect to ftp": (
        lambda handler, _: handler.reply(status=302, Location="ftp://127.0.0.1/x"),
        {},
        "only https",
    ),
    "redirect to itself": (
        lambda handler, _: handler.reply(status=302, Location=handler.path),
        {},
        "answered 302",
    ),
    "not http": (
        lambda handler, _: handler.wfile.write(b"SSH-2.0-\x1b[31mx\r\n"),
        {},
        r"SSH-2.0- \[31mx.*gave up after 4 attempts",
    ),
    "stalls": (
        lambda handler, _: time.sleep(0.4),
        {"timeout": 0.05, "retries": 1},
        "sent nothing for 0.05 s.*gave up after 2 attempts",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_download(server: Server, tmp_path: Path, case: str) -> None:
    server.answer, options, message = BAD[case]
    root = tmp_path / "root"
    with pytest.raises(DownloadError, match=message) as caught:
        get(server, root, **options)
    assert "\n" not in str(caught.value)
    assert set(contents(tmp_path)) <= {"root", "root/data.tar.gz.part"}  # no final name


@pytest.mark.parametrize("case", BAD)
def test_bad_download_then_good_one(server: Server, tmp_path: Path, case: str) -> None:
    server.answer, options, _ = BAD[case]
    with pytest.raises(DownloadError):
        get(server, tmp_path, **(options | {"retries": 0}))
    server.answer = lambda handler, _: handler.file()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert contents(tmp_path) == {"data.tar.gz": CONTENT}


@pytest.mark.parametrize("kind", ["text/html", "application/gzip"])
def test_web_page_does_not_replace_an_earlier_part(
    server: Server, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT[:HALF])
    server.answer = lambda handler, _: handler.reply(HTML, kind=kind)
    with pytest.raises(DownloadError, match="web page"):
        get(server, tmp_path)
    assert contents(tmp_path) == {"data.tar.gz.part": CONTENT[:HALF]}


def test_retries_count_only_attempts_without_progress(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_PROGRESS", 1000)
    step = SIZE // 6 + 1
    server.answer = lambda handler, _: handler.file(cut=step)
    assert get(server, tmp_path, retries=1).read_bytes() == CONTENT
    assert len(server.requests) == 6


def test_server_that_always_starts_again_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_PROGRESS", 1000)
    server.answer = lambda handler, _: handler.reply(CONTENT[:HALF], length=SIZE)
    with pytest.raises(DownloadError, match="gave up after 2 attempts"):
        get(server, tmp_path, retries=1)


def test_waits_grow_and_obey_the_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(archives.time, "sleep", waits.append)
    after = ["0", "30", "100000", "soon"]
    server.answer = lambda handler, count: handler.reply(
        status=503, Retry_After=after[min(count, 3)]
    )
    with pytest.raises(DownloadError):
        get(server, tmp_path, retries=4, backoff=1.0)
    assert waits == [1.0, 30, 60.0, 8.0]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/data.tar.gz",
        "http://127.0.0.1/data.tar.gz",
        "ftp://example.org/data.tar.gz",
        "file:///etc/hostname",
        "data:,hello",
        "https:///data.tar.gz",
        "https://[::1/data.tar.gz",
        "data.tar.gz",
    ],
)
def test_only_https(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only https"):
        download(url, tmp_path / "file")
    assert contents(tmp_path) == {}


def test_local_http_is_for_this_machine_alone(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1.example.org/x", "http://localhost/x", "http://10.0.0.1/x"):
        with pytest.raises(DownloadError, match="only https"):
            download(url, tmp_path / "file", allow_local_http=True)


def test_untrusted_certificate_is_not_retried(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = archives.ssl.SSLCertVerificationError("bad")
    error.verify_message = "self-signed certificate"
    calls: list[int] = []

    def refuse(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise archives.URLError(error)

    monkeypatch.setattr(archives.urllib.request.OpenerDirector, "open", refuse)
    with pytest.raises(DownloadError, match=r"could not be trusted.*self-signed.*clock"):
        get(server, tmp_path)
    assert len(calls) == 1


def test_certificates_are_verified_whatever_the_process_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Some libraries replace the default of the whole process by a context that checks nothing.
    ssl = archives.ssl
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    transfer = archives._Transfer("https://x", tmp_path / "x.part", None, None, 1.0, False, False)
    handlers = [handler for handler in transfer.opener.handlers if hasattr(handler, "https_open")]
    assert len(handlers) == 1
    context = handlers[0]._context
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname


def test_full_disk_is_seen_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=SIZE - 1)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    server.answer = lambda handler, _: handler.file()
    with pytest.raises(DownloadError, match=r"only .* free .*free space"):
        get(server, tmp_path)
    assert contents(tmp_path) == {}


def test_disk_that_fills_up_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.os, "fsync", full)
    server.answer = lambda handler, _: handler.file(cut=HALF)
    with pytest.raises(DownloadError, match=r"No space left.*free space"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert contents(tmp_path) == {"data.tar.gz.part": CONTENT[:HALF]}


def test_verify(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(DownloadError, match="no such file"):
        verify(path)
    path.write_bytes(CONTENT)
    verify(path, sha256=SHA256.upper(), md5=MD5, size=SIZE)
    with pytest.raises(DownloadError, match=f"{SIZE} bytes, expected 5"):
        verify(path, size=5)
    with pytest.raises(DownloadError, match=f"md5 is {MD5}"):
        verify(path, sha256=SHA256, md5="0" * 32)


def test_format_bytes() -> None:
    sizes = (0, 1023, 1024, 170_498_071, 2_918_471_680, 5 << 40)
    assert [format_bytes(size) for size in sizes] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "162.6 MiB", "2.7 GiB", "5.0 TiB",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------- good archives

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


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("folder", [None, "set"])
def test_unpack(tmp_path: Path, name: str, folder: str | None) -> None:
    archive = tmp_path / "archive"  # told by content, not by name
    archive.write_bytes(FORMATS[name])
    assert unpack(archive, tmp_path / "root", folder=folder) == tmp_path / "root" / "set"
    assert contents(tmp_path / "root") == UNPACKED


def test_unpack_several_top_entries_into_a_named_folder(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes([("blur/1.txt", b"1"), ("fog/2.txt", b"2")]))
    with pytest.raises(ArchiveError, match="no single top folder"):
        unpack(archive, tmp_path / "root")
    assert contents(tmp_path / "root") == {}
    target = unpack(archive, tmp_path / "root", folder="weather/all")
    assert contents(target) == {"blur": None, "blur/1.txt": b"1", "fog": None, "fog/2.txt": b"2"}


def test_unpack_ignores_permissions_of_the_archive(tmp_path: Path) -> None:
    info = tarfile.TarInfo("set/program")
    info.mode, info.uid, info.size = 0o6777, 12345, 4
    shut = tarfile.TarInfo("set/shut")
    shut.type, shut.mode = tarfile.DIRTYPE, 0
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes([shut, info, ("set/shut/file", b"x")]))
    unpack(archive, tmp_path)
    mode = (tmp_path / "set" / "program").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)
    assert (tmp_path / "set" / "program").stat().st_uid == os.getuid()
    assert (tmp_path / "set" / "shut" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("folder", [None, "set"])
@pytest.mark.parametrize("obstacle", ["file", "folder", "empty folder", "dangling link"])
def test_unpack_overwrites_nothing(tmp_path: Path, obstacle: str, folder: str | None) -> None:
    root, archive = tmp_path / "root", tmp_path / "a.tar"
    archive.write_bytes(FORMATS["tar"])
    root.mkdir()
    if obstacle == "file":
        (root / "set").write_bytes(b"mine")
    elif obstacle == "dangling link":
        (root / "set").symlink_to(tmp_path / "elsewhere")
    else:
        (root / "set").mkdir()
        if obstacle == "folder":
            (root / "set" / "labels").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=r"exists already.*never overwritten.*move it away"):
        unpack(archive, root, folder=folder)
    assert contents(tmp_path) == before


def test_failure_while_writing_leaves_the_root_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, root = tmp_path / "a.tar", tmp_path / "root"
    archive.write_bytes(FORMATS["tar"])
    root.mkdir()
    write, written = archives._write, []

    def full(member: Any, path: Path) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(member, path)

    monkeypatch.setattr(archives, "_write", full)
    with pytest.raises(OSError, match="No space"):
        unpack(archive, root)
    assert contents(root) == {}


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".unpacking-abc" / "content").mkdir(parents=True)
    (tmp_path / "set").mkdir()
    remove_leftovers(tmp_path)
    assert contents(tmp_path) == {"set": None}


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive"):
        unpack(tmp_path / "a.tar", tmp_path / "root")
    assert contents(tmp_path) == {}


# ------------------------------------------------------------------------------- hostile archives


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


deep = "/".join(["d"] * 100) + "/file"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "tar: parent": (tar_bytes([("../evil.txt", b"evil")]), "leads out"),
    "tar.gz: parent": (gz(tar_bytes([("../evil.txt", b"evil")])), "leads out"),
    "zip: parent": (zip_bytes([("../evil.txt", b"evil")]), "leads out"),
    "tar: parent inside": (tar_bytes([("set/../../evil.txt", b"evil")]), "leads out"),
    "tar: parent after good ones": (tar_bytes([*TREE, ("set/../../evil.txt", b"")]), "leads out"),
    "tar: parent as folder": (tar_bytes([special(tarfile.DIRTYPE, "..")]), "leads out"),
    "tar: absolute": (tar_bytes([("/tmp/evil-cnsn.txt", b"evil")]), "absolute"),
    "zip: absolute": (zip_bytes([("/tmp/evil-cnsn.txt", b"evil")]), "absolute"),
    "zip: two slashes": (zip_bytes([("//host/share/evil.txt", b"evil")]), "absolute"),
    "zip: drive": (zip_bytes([("C:/evil.txt", b"evil")]), "absolute"),
    "zip: drive-relative": (zip_bytes([("C:evil.txt", b"evil")]), "absolute"),
    "zip: backslashes": (zip_bytes([("..\\..\\evil.txt", b"evil")]), "backslashes"),
    "tar: backslashes": (tar_bytes([("set\\..\\..\\evil.txt", b"evil")]), "backslashes"),
    "tar: symbolic link out": (
        tar_bytes([special(tarfile.SYMTYPE, "set/x", "../.."), ("set/x/evil.txt", b"evil")]),
        "link to",
    ),
    "tar: absolute symbolic link": (
        tar_bytes([special(tarfile.SYMTYPE, "set/x", "/etc"), ("set/x/evil.txt", b"evil")]),
        "link to",
    ),
    "tar: symbolic link inside": (
        tar_bytes([*TREE, special(tarfile.SYMTYPE, "set/x", "labels")]),
        "link to",
    ),
    "tar: chain of links": (
        tar_bytes(
            [
                special(tarfile.SYMTYPE, "set/a", "."),
                special(tarfile.SYMTYPE, "set/a/b", ".."),
                ("set/a/b/../evil.txt", b"evil"),
            ]
        ),
        "link to",
    ),
    "tar: hard link out": (
        tar_bytes([special(tarfile.LNKTYPE, "set/x", "../victim.txt"), ("set/x", b"evil")]),
        "link to",
    ),
    "tar: hard link to /etc/passwd": (
        tar_bytes([special(tarfile.LNKTYPE, "set/x", "/etc/passwd")]),
        "link to",
    ),
    "zip: link out": (zip_link("../.."), "is a link"),
    "zip: absolute link": (zip_link("/etc"), "is a link"),
    "tar: character device": (tar_bytes([special(tarfile.CHRTYPE)]), "device"),
    "tar: block device": (tar_bytes([special(tarfile.BLKTYPE)]), "device"),
    "tar: pipe": (tar_bytes([special(tarfile.FIFOTYPE)]), "device or pipe"),
    "tar: unknown kind": (tar_bytes([special(b"Z", "set/x")]), "not a file|file"),
    "zip: device": (zip_device(), "device"),
    "tar.gz: bomb by ratio": (gz(tar_bytes([("set/zeros", bytes(8 << 20))])), "times its size"),
    "zip: bomb by ratio": (zip_bytes([("set/zeros", bytes(8 << 20))]), "times its size"),
    "tar: bomb by size": (claims("set/huge", 1 << 40) + bytes(1024), "unpacks to more"),
    "tar: negative size": (claims("set/x", -512) + bytes(1024), "unpacks to more|damaged"),
    "tar: later bomb in a header": (
        FORMATS["tar"].rstrip(b"\0") + bytes(512 - 7) + long_header(8 << 20),
        "longer than any real one",
    ),
    "tar.gz: bomb in a header": (gz(long_header(8 << 20)), "longer than any real one"),
    "tar.gz: chain of headers": (gz(long_header(0) * 1500), "longer than any real|damaged"),
    "tar.gz: bomb after the end": (gz(FORMATS["tar"] + bytes(4 << 20)), "after its end"),
    "tar: bomb by count": (tar_bytes(many(200)), "more than 100 members"),
    "zip: bomb by count": (zip_bytes(many(200)), "more than 100 members"),
    "tar: duplicate": (tar_bytes([("set/a", b"good"), ("set/a", b"evil")]), "there twice"),
    "tar: duplicate by dot": (tar_bytes([("set/a", b"good"), ("set/./a", b"")]), "there twice"),
    "tar: duplicate by case": (tar_bytes([("set/a", b"good"), ("set/A", b"")]), "there twice"),
    "tar: duplicate by Unicode form": (
        tar_bytes([("set/é", b"good"), ("set/e\u0301", b"evil")]),
        "there twice",
    ),
    "tar: file over folder": (tar_bytes([("set/a/b", b""), ("set/a", b"")]), "there twice"),
    "tar: folder over file": (
        tar_bytes([("set/a", b""), special(tarfile.DIRTYPE, "set/a")]),
        "there twice",
    ),
    "tar: file below file": (tar_bytes([("set/a", b""), ("set/a/b", b"")]), "below a file"),
    "tar: cut in a file": (FORMATS["tar"][: 3 * 512 + 700], "damaged|cut short"),
    "tar: cut in a header": (FORMATS["tar"][: 2 * 512 + 100], "damaged|cut short"),
    "tar: cut between members": (FORMATS["tar"][: 2 * 512], "damaged|cut short"),
    "tar: damaged header": (
        FORMATS["tar"][:1024] + b"\xaa" * 512 + FORMATS["tar"][1536:],
        "damaged|cut short",
    ),
    "tar.gz: cut": (FORMATS["tar.gz"][:-200], "damaged|cut short"),
    "tar.gz: flipped bit": (
        FORMATS["tar.gz"][:-6] + bytes([FORMATS["tar.gz"][-6] ^ 1]) + FORMATS["tar.gz"][-5:],
        "damaged|cut short",
    ),
    "zip: cut": (FORMATS["zip"][:-100], "damaged|cut short"),
    "zip: flipped bit": (
        patched(FORMATS["stored zip"], b"one", b"onE"),
        "damaged|cut short",
    ),
    "zip: declares less than it has": (lying_zip(10), "damaged"),
    "zip: declares more than it has": (lying_zip(6000), "has not the 6000 bytes"),
    "zip: two names": (swapped_zip(), "damaged|two different names"),
    "zip: encrypted": (encrypted_zip(), "encrypted"),
    "not an archive": (b"hello, this is no archive" * 100, "damaged"),
    "a web page": (HTML * 20, "damaged"),
    "random bytes": (CONTENT[:10240], "damaged"),
    "nothing": (b"", "damaged"),
    "empty tar": (tar_bytes([]), "no files|damaged"),
    "empty zip": (zip_bytes([]), "no files"),
    "only folders": (tar_bytes([special(tarfile.DIRTYPE, "set")]), "no files"),
    "zip: full-width dots": (zip_bytes([("\uff0e\uff0e/evil.txt", b"")]), "leads out"),
    "zip: two-dot leader": (zip_bytes([("\u2025/evil.txt", b"")]), "leads out"),
    "zip: full-width slash": (zip_bytes([("..\uff0fevil.txt", b"")]), "slashes"),
    "zip: right-to-left mark": (zip_bytes([("set/\u202etxt.exe", b"")]), "invisible"),
    "tar: zero-width space": (tar_bytes([("set/a\u200b", b"")]), "invisible"),
    "tar: newline": (tar_bytes([("set/a\nb", b"")]), "invisible"),
    "tar: invalid UTF-8": (
        patched(tar_bytes([("set/aXb", b"")], format=tarfile.USTAR_FORMAT), b"aX", b"a\xff"),
        "invisible|damaged",
    ),
    "zip: NUL in a name": (
        patched(zip_bytes([("set/aXevil", b"")]), b"aXevil", b"a\x00evil"),
        "different names|damaged|invisible",
    ),
    "tar: empty name": (tar_bytes([("", b"x")]), "empty"),
    "tar: only dots": (tar_bytes([(".", b"x")]), "not one of a file"),
    "tar: trailing dot": (tar_bytes([("set/a.", b"x")]), "not every file system"),
    "tar: long name": (tar_bytes([("set/" + "a" * 300, b"x")]), "not every file system"),
    "tar: longer name": (tar_bytes([("set/" + "a/" * 900, b"x")]), "too long"),
    "tar: deep": (tar_bytes([(deep, b"x")]), "too deep"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("folder", [None, "set"])
def test_hostile_archive(tmp_path: Path, case: str, folder: str | None) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "victim.txt").write_bytes(b"untouched")
    root = tmp_path / "root"
    (root / "other").mkdir(parents=True)
    (root / "other" / "old.txt").write_bytes(b"old")
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack(archive, root, folder=folder, max_bytes=64 << 20, max_members=100)
    text = str(caught.value)
    assert text.startswith("Refused archive: ") and "download it again" in text and "\n" not in text
    assert contents(tmp_path) == before
    assert not Path("/tmp/evil-cnsn.txt").exists()


@pytest.mark.parametrize("folder", ["../out", "/out", "a/../../out", "", ".", "..", "a\\b"])
def test_folder_argument_stays_below_the_root(tmp_path: Path, folder: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(FORMATS["tar"])
    before = contents(tmp_path)
    with pytest.raises(ArchiveError):
        unpack(archive, tmp_path / "root", folder=folder)
    assert contents(tmp_path) == before


def test_memory_stays_flat_over_many_members(tmp_path: Path) -> None:
    import tracemalloc

    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_bytes(many(3000)))
    kept: list[int] = []
    with archive.open("rb") as file:
        tracemalloc.start()
        for i, _ in enumerate(archives._tar_members(file)):
            if i in (500, 2900):
                kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert kept[1] - kept[0] < 200_000  # 2,400 headers would be above 1 MB
