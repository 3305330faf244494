"""Downloads from a local server that lies, and addresses that are not https."""

from __future__ import annotations

import gzip
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from data.prepare import download as transfer
from data.prepare.download import DownloadError, download
from tests.local_server import (
    CONTENT,
    HALF,
    HTML,
    MD5,
    SIZE,
    Handler,
    Server,
    contents,
    get,
)

pytestmark = pytest.mark.promise(
    "a download that is not the published file is refused in one sentence"
)


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
    "announces an exabyte": (
        lambda handler, _: handler.reply(CONTENT, length=1 << 60),
        {},
        r"needs 1048576\.0 TiB but only .* free",
    ),
    "chunked and cut": (
        lambda handler, _: handler.reply(
            b"400\r\n" + CONTENT[:100], length=None, Transfer_Encoding="chunked"
        ),
        {},
        "gave up after 4 attempts",
    ),
    "compressed on the way": (
        lambda handler, _: handler.reply(gzip.compress(CONTENT), Content_Encoding="gzip"),
        {},
        "not the published one",
    ),
    "a part where the whole was asked for": (
        lambda handler, _: handler.reply(
            CONTENT[7:], status=206, Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}"
        ),
        {},
        "continued at byte 7 instead of 0",
    ),
    "no content": (lambda handler, _: handler.reply(status=204), {}, "answered 204"),
    "redirect to http": (
        lambda handler, _: handler.reply(status=302, Location="http://example.org/data.tar.gz"),
        {},
        "Refused http://example.org.*only https",
    ),
    "redirect to a local file": (
        lambda handler, _: handler.reply(status=302, Location="file:///etc/hostname"),
        {},
        "Refused file:///etc/hostname.*only https",
    ),
    "redirect to ftp": (
        lambda handler, _: handler.reply(status=302, Location="ftp://127.0.0.1/x"),
        {},
        "only https",
    ),
    "redirect to nonsense": (
        lambda handler, _: handler.reply(status=302, Location="https://[::1/data.tar.gz"),
        {},
        "no valid address, or leads to one",
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
    error = transfer.ssl.SSLCertVerificationError("bad")
    error.verify_message = "self-signed certificate"
    calls: list[int] = []

    def refuse(*_: Any, **__: Any) -> None:
        calls.append(1)
        try:
            raise error
        except ssl.SSLError as cause:
            raise requests.exceptions.SSLError("wrapped") from cause

    monkeypatch.setattr(requests.Session, "send", refuse)
    with pytest.raises(DownloadError, match=r"could not be trusted.*self-signed.*clock"):
        get(server, tmp_path)
    assert len(calls) == 1


def test_certificates_are_verified_whatever_the_process_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Some libraries replace the default of the whole process by a context that checks nothing.
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which would be looked at first
        monkeypatch.delenv(name, raising=False)
    one = transfer.Transfer("https://x", tmp_path / "x.part", None, None, 1.0, False, False)
    request = one.session.prepare_request(requests.Request("GET", one.url))
    settings = one.session.merge_environment_settings(one.url, {}, None, None, None)
    adapter: Any = one.session.get_adapter(one.url)
    pool = adapter.get_connection_with_tls_context(request, settings["verify"])
    assert pool.cert_reqs == "CERT_REQUIRED" and pool.assert_hostname is not False


def test_full_disk_is_seen_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=SIZE - 1)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    server.answer = lambda handler, _: handler.file()
    with pytest.raises(DownloadError, match=r"only .* free .*free space"):
        get(server, tmp_path)
    assert contents(tmp_path) == {}
