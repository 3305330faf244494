"""A local web server that answers as a test says, well or badly, and a file to ask it for."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from data.prepare.download import download

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
        self.send_header("Connection", "close")
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


S = TypeVar("S", bound=ThreadingHTTPServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """It answers, in a thread."""
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
