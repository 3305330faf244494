"""`python -m data.prepare`: every set by way of small stand-ins that a local server hands out."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.classification.cifar import CIFAR, CIFARName, read_cifar
from data.prepare import __main__ as prepare
from data.prepare import cifar as cifar_sets
from data.prepare.__main__ import main
from data.prepare.catalogue import Made, Published, RemoteFile
from data.prepare.download import difference
from tests.fakes import write_cifar
from tests.local_server import serving

ROOT = Path(__file__).parents[3]
PIXELS = b"".join(hashlib.sha256(i.to_bytes(4, "big")).digest() for i in range(4000))


def make_tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


GOOD = make_tar({"small/pixels": PIXELS, "small/labels": b"0123"})
HOSTILE = make_tar({"small/pixels": PIXELS, "small/../../evil.txt": b"evil"})


def missing(root: Path) -> str:
    wrong = difference(root / "small" / "pixels", md5=hashlib.md5(PIXELS).hexdigest())
    return f"{root / 'small' / 'pixels'}: {wrong}" if wrong else ""


def entry(content: bytes = GOOD, **changes: Any) -> Published:
    file = RemoteFile(
        url="https://unreachable.invalid/somewhere/small.tar.gz?download=1",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        folder="small",
        unpacked=len(PIXELS) + 4,
    )
    fields: dict[str, Any] = {
        "title": "Small-1",
        "about": "a stand-in",
        "files": (file,),
        "missing": missing,
    }
    return Published(**(fields | changes))


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges; a body ends after `cut` bytes and waits `pause` s first."""

    daemon_threads = True
    content, cut, pause = GOOD, len(GOOD), 0.0
    slow = False  # a little at a time, for as long as the client listens

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.server.requests.append((self.path, span))
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        body = self.server.content[start:]
        time.sleep(self.server.pause)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body)))
        if span:
            whole = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        step = 4096 if self.server.slow else len(GOOD)
        with suppress(ConnectionError):
            for at in range(0, min(len(body), self.server.cut), step):
                self.wfile.write(body[at : min(at + step, self.server.cut)])
                time.sleep(0.02 if self.server.slow else 0)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(Server()) as server:
        yield server


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[Published | Made], None]:
    """Puts a stand-in into the registry, under the name "small"."""
    return lambda entry: monkeypatch.setitem(prepare.SETS, "small", entry)


def run(server: Server, root: Path, *options: str) -> int:
    arguments = ["small", "--root", str(root), "--mirror", server.url, "--retries", "0", *options]
    return main(arguments, allow_local_http=True)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below `folder` but locks: files by content, folders as None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(".lock")
    }


DONE = {"small": None, "small/labels": b"0123", "small/pixels": PIXELS, "small.tar.gz": GOOD}


# ---------------------------------------------------------------------------------- the registry


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10c", "cifar100c"])
def test_facts_of_the_published_sets(name: str) -> None:
    published = prepare.SETS[name]
    assert isinstance(published, Published)
    assert (
        published.title
        == {
            "cifar10": "CIFAR-10",
            "cifar100": "CIFAR-100",
            "cifar10c": "CIFAR-10-C",
            "cifar100c": "CIFAR-100-C",
        }[name]
    )
    (file,) = published.files
    assert file.url.startswith("https://") and file.name in file.url
    assert re.fullmatch("[0-9a-f]{32}", file.md5 or "")
    assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert file.folder and file.unpacked >= file.size


def test_corrupted_archives_have_the_size_of_their_arrays() -> None:
    """A tar of 19 arrays and their labels: headers of 512 bytes, content in blocks of 512."""
    array, blocks = 128 + 50_000 * 32 * 32 * 3, lambda count: -(-count // 512) * 512
    least = 19 * (512 + blocks(array)) + 512 + blocks(128 + 50_000) + 512
    for name in ("cifar10c", "cifar100c"):
        published = prepare.SETS[name]
        assert isinstance(published, Published)
        assert 0 < published.files[0].size - least < 512 * 1024


def test_the_command_answers_without_torch(root: Path) -> None:
    """Loading it takes seconds, and most of what this command does needs none of it."""
    code = "import sys, data.prepare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


def test_help_names_every_set_with_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    published = [entry for entry in prepare.SETS.values() if isinstance(entry, Published)]
    assert all(name in text for name in prepare.SETS)
    # One has no published size.
    assert text.count("iB") == sum(all(file.size for file in entry.files) for entry in published)
    with pytest.raises(SystemExit):
        main(["cifar10c", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar (2.7 GiB, unpacked" in text


# ------------------------------------------------------------------------------ published files


def test_a_set_is_fetched_once(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    root = tmp_path / "new root"
    (root / ".unpacking-killed" / "content").mkdir(parents=True)
    assert run(server, root) == 0
    assert contents(root) == DONE
    assert server.requests == [("/mirror/small.tar.gz", None)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Small-1: a stand-in"
    assert lines[1].startswith(f"  downloading {server.url}small.tar.gz (")
    assert lines[2].startswith("  unpacking small.tar.gz") and str(root / "small") in lines[2]
    assert lines[-1] == f"Done: Small-1 is complete in {root}."
    assert run(server, root) == 0
    assert len(server.requests) == 1
    assert capsys.readouterr().out == f"Small-1 is complete in {root}: nothing to do.\n"


def test_interrupted_download_continues(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    server.cut = 50_000
    assert run(server, tmp_path) == 1
    output = capsys.readouterr()
    assert output.err.startswith("Error: ") and output.err.count("\n") == 1
    assert "run the same command again to continue" in output.err
    assert contents(tmp_path) == {"small.tar.gz.part": GOOD[:50_000]}
    server.cut = len(GOOD)
    assert run(server, tmp_path) == 0
    assert "continuing" in capsys.readouterr().out
    assert server.requests[-1][1] == "bytes=50000-"
    assert contents(tmp_path) == DONE


def test_killed_download_continues(server: Server, tmp_path: Path, add: Any) -> None:
    server.slow = True
    script = (
        "import sys; from tests.data.prepare import test_prepare as t; "
        "from data.prepare import __main__ as prepare; "
        "prepare.SETS['small'] = t.entry(); "
        "prepare.main(sys.argv[1:], allow_local_http=True)"
    )
    arguments = ["small", "--root", str(tmp_path), "--mirror", server.url]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT)
    part = tmp_path / "small.tar.gz.part"
    patience = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < patience:
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = part.read_bytes()
    assert 0 < len(kept) < len(GOOD) and kept == GOOD[: len(kept)]
    server.slow = False
    add(entry())
    assert run(server, tmp_path) == 0
    assert server.requests[-1][1] == f"bytes={len(kept)}-"
    assert contents(tmp_path) == DONE


def test_archive_that_is_there_is_used(server: Server, tmp_path: Path, add: Any) -> None:
    add(entry())
    (tmp_path / "small.tar.gz").write_bytes(GOOD)
    assert run(server, tmp_path) == 0
    assert server.requests == []
    assert contents(tmp_path) == DONE


@pytest.mark.parametrize("content", [b"my own notes", GOOD[:-100]])
def test_archive_that_is_another_file_is_kept(
    server: Server, tmp_path: Path, add: Any, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    (tmp_path / "small.tar.gz").write_bytes(content)
    assert run(server, tmp_path) == 1
    assert "not the published file" in capsys.readouterr().err
    assert server.requests == [] and contents(tmp_path) == {"small.tar.gz": content}


def test_folder_that_is_another_set_is_kept(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "pixels").write_bytes(b"a subset")
    assert run(server, tmp_path) == 1
    message = capsys.readouterr().err
    assert "not the complete published Small-1, and nothing is overwritten" in message
    assert server.requests == []
    assert sorted(os.listdir(tmp_path)) == ["small"]  # not even a lock


def test_mirror_with_other_content_is_refused(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    server.content = GOOD[::-1]
    assert run(server, tmp_path) == 1
    assert "not the published one" in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_mirror_needs_a_checksum(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = RemoteFile(url="https://x.invalid/small.tar.gz", size=len(GOOD), folder="small")
    add(entry(files=(file,)))
    assert run(server, tmp_path) == 1
    assert "mirror cannot be trusted" in capsys.readouterr().err
    assert server.requests == []


def test_hostile_archive_of_the_right_checksum_is_refused(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry(HOSTILE))
    server.content, server.cut = HOSTILE, len(HOSTILE)
    root = tmp_path / "root"
    assert run(server, root) == 1
    assert "leads out of the folder" in capsys.readouterr().err
    assert contents(tmp_path) == {"root": None, "root/small.tar.gz": HOSTILE}


def test_archive_larger_than_published_is_refused(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    large = make_tar({"small/pixels": os.urandom(3 << 20)})
    add(entry(large))
    server.content, server.cut = large, len(large)
    assert run(server, tmp_path) == 1
    assert "unpacks to more than" in capsys.readouterr().err
    assert contents(tmp_path) == {"small.tar.gz": large}


def test_set_of_two_files_continues_with_the_second(
    server: Server, tmp_path: Path, add: Any
) -> None:
    (first,) = entry().files
    note = RemoteFile(
        url="https://x.invalid/pixels.bin", size=len(PIXELS), md5=hashlib.md5(PIXELS).hexdigest()
    )
    add(
        entry(
            files=(first, note),
            missing=lambda root: missing(root) or difference(root / "pixels.bin", size=len(PIXELS)),
        )
    )
    assert run(server, tmp_path) == 1  # the server gives the archive under the second name too
    assert contents(tmp_path) == DONE
    server.content = PIXELS
    server.cut = len(PIXELS)
    assert run(server, tmp_path) == 0
    assert [path for path, _ in server.requests] == [
        "/mirror/small.tar.gz",
        "/mirror/pixels.bin",
        "/mirror/pixels.bin",
    ]
    assert contents(tmp_path) == DONE | {"pixels.bin": PIXELS}


def test_host_that_forbids_automation(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry(by_hand="Log in at https://example.org and accept the terms."))
    assert main(["small", "--root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "Log in at" in message and f"Put small.tar.gz into {tmp_path}" in message
    (tmp_path / "small.tar.gz").write_bytes(GOOD)
    assert main(["small", "--root", str(tmp_path)]) == 0
    assert contents(tmp_path) == DONE


def test_two_runs_at_once_are_kept_apart(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    server.pause = 0.3
    codes: list[int] = []
    runs = [threading.Thread(target=lambda: codes.append(run(server, tmp_path))) for _ in range(3)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert codes == [0, 0, 0]
    assert len(server.requests) == 1
    output = capsys.readouterr().out
    assert output.count("waiting until it has finished") == 2
    assert output.count("another process has finished it") == 2
    assert contents(tmp_path) == DONE


def test_a_set_that_is_finished_while_it_is_looked_at_is_complete(
    tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def finish_meanwhile(root: Path) -> str:
        found = missing(root)
        (root / "small").mkdir(exist_ok=True)
        (root / "small" / "pixels").write_bytes(PIXELS)
        return found

    add(entry(missing=finish_meanwhile))
    assert main(["small", "--root", str(tmp_path)]) == 0
    assert "is complete" in capsys.readouterr().out


def test_read_only_root(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o555)
    try:
        for folder in (root, root / "below"):
            assert run(server, folder) == 1
            assert "may be written to: choose another --root" in capsys.readouterr().err
        assert list(root.iterdir()) == [] and server.requests == []
        root.chmod(0o755)
        assert run(server, root) == 0
        root.chmod(0o555)
        assert run(server, root) == 0  # a finished set needs no writing
    finally:
        root.chmod(0o755)


def test_root_that_is_a_file(
    server: Server, tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    add(entry())
    (tmp_path / "file").write_bytes(b"mine")
    assert run(server, tmp_path / "file") == 1
    assert "not a folder" in capsys.readouterr().err
    assert contents(tmp_path) == {"file": b"mine"}


def test_full_disk_is_said_before_anything_is_fetched(
    server: Server,
    tmp_path: Path,
    add: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(entry())
    needed = len(GOOD) + len(PIXELS) + 4
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    assert run(server, tmp_path) == 1
    assert "free space or choose another --root" in capsys.readouterr().err
    assert server.requests == [] and contents(tmp_path) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    assert run(server, tmp_path) == 0


def test_interrupt_says_how_to_go_on(
    tmp_path: Path,
    add: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    add(entry())
    monkeypatch.setattr(prepare, "download", interrupt)
    assert main(["small", "--root", str(tmp_path)]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_error_of_the_system_gets_a_remedy(
    tmp_path: Path, add: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> None:
        raise OSError(28, "No space left on device", "/data/fog.npy")

    add(Made(title="x", about="x", add_options=lambda _: None, make=fail))
    assert main(["small", "--root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "/data/fog.npy" in message and "No space left" in message and "free space" in message
    with pytest.raises(OSError, match="No space"):
        main(["small", "--root", str(tmp_path), "--traceback"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cifar10", "--root", "{}", "--mirror", "http://example.org"], 1, "only https"),
        (["cifar10c", "--root", "{}", "--mirror", "file:///etc"], 1, "only https"),
        (["corrupt", "--root", "{}"], 1, "Expected CIFAR-10 in"),
        (["cifar11", "--root", "{}"], 2, "invalid choice"),
        (["cifar10"], 2, "--root"),
        (["corrupt", "--root", "{}", "--seed", "-1"], 2, "expected 0 or more"),
        (["corrupt", "--root", "{}", "--workers", "0"], 2, "expected 1 or more"),
    ],
)
def test_command_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data.prepare", *(text.format(tmp_path) for text in arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert contents(tmp_path) == {}


# ------------------------------------------------------------------------------ what is complete


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_subset_is_not_the_published_set(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path, name=name, n=6)
    before = contents(tmp_path)
    assert main([name, "--root", str(tmp_path)]) == 1
    assert "its md5 is" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_published_cifar_is_recognised_by_its_checksums(
    tmp_path: Path,
    name: CIFARName,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_cifar(tmp_path, name=name, n=6)
    layout = cifar_sets.LAYOUTS[name]
    parts = {
        part: {
            file: hashlib.md5((tmp_path / layout.folder / file).read_bytes()).hexdigest()
            for file in getattr(layout, part)
        }
        for part in ("train", "test")
    }
    monkeypatch.setitem(cifar_sets.LAYOUTS, name, layout._replace(**parts))
    assert main([name, "--root", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    next((tmp_path / layout.folder).iterdir()).unlink()
    assert main([name, "--root", str(tmp_path)]) == 1
    assert "there is no such file" in capsys.readouterr().err


def write_arrays(folder: Path, count: int = 2) -> None:
    from data.corruptions.recipes import ALL_CORRUPTIONS

    folder.mkdir(parents=True)
    for name in ALL_CORRUPTIONS:
        np.save(folder / f"{name}.npy", np.zeros((5 * count, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.zeros(5 * count, np.int64))


def test_corrupted_set_is_complete_with_all_arrays(tmp_path: Path) -> None:
    complete = partial(cifar_sets._missing_corrupted, "CIFAR-10-C", 2)
    assert complete(tmp_path)
    write_arrays(tmp_path / "CIFAR-10-C")
    assert complete(tmp_path) == ""
    fog = tmp_path / "CIFAR-10-C" / "fog.npy"
    whole = fog.read_bytes()
    fog.write_bytes(whole[:-1])
    assert "fog" in complete(tmp_path)
    fog.write_bytes(whole)
    (tmp_path / "CIFAR-10-C" / "snow.npy").unlink()
    assert "snow" in complete(tmp_path)


# -------------------------------------------------------------------------------- corrupted sets

FEW = ["--corruptions", "gaussian_noise", "contrast", "--workers", "1"]


def test_corrupt_makes_the_published_layout_beside_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = read_cifar(write_cifar(tmp_path / "root", n=6), train=False)
    before = contents(tmp_path / "root")
    assert main(["corrupt", "--root", str(tmp_path / "root"), *FEW]) == 0
    out = tmp_path / "root-C"
    assert str(out) in capsys.readouterr().out
    made = np.load(out / "contrast.npy")
    assert made.shape == (30, 32, 32, 3) and made.dtype == np.uint8
    spread = made.reshape(5, 6, -1).astype(float).std(2)
    assert (spread[1:] < spread[:-1]).all()  # contrast falls with severity, image by image
    assert (spread[0] < images.reshape(6, -1).astype(float).std(1)).all()
    assert np.load(out / "labels.npy").tolist() == labels.tolist() * 5
    assert contents(tmp_path / "root") == before


def test_corrupt_is_a_function_of_the_seed(tmp_path: Path) -> None:
    write_cifar(tmp_path / "root", n=6)
    noise = {}
    for seed in ("0", "0", "1"):
        out = tmp_path / f"out{len(noise)}-{seed}"
        arguments = ["--root", str(tmp_path / "root"), "--out", str(out), "--seed", seed]
        assert main(["corrupt", *arguments, *FEW]) == 0
        noise[out] = (out / "gaussian_noise.npy").read_bytes()
    first, again, other = noise.values()
    assert first == again != other


def test_finished_corruption_is_left_alone_and_a_missing_one_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path / "root", n=6)
    arguments = ["corrupt", "--root", str(tmp_path / "root"), *FEW]
    noise, contrast = (tmp_path / "root-C" / f"{name}.npy" for name in FEW[1:3])
    assert main(arguments) == 0
    before, first = noise.stat().st_mtime_ns, contents(tmp_path)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out and noise.stat().st_mtime_ns == before
    contrast.unlink()
    assert main(arguments) == 0
    assert "1 of 2 corruptions" in capsys.readouterr().out
    assert noise.stat().st_mtime_ns == before and contents(tmp_path) == first


def test_corruptions_of_other_images_or_seed_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path / "root", n=6)
    write_cifar(tmp_path / "other", n=6, seed=1)
    out = ["--out", str(tmp_path / "out")]
    assert main(["corrupt", "--root", str(tmp_path / "root"), *out, *FEW]) == 0
    before = contents(tmp_path)
    for arguments in (["root", "--seed", "1"], ["other"]):
        root = str(tmp_path / arguments[0])
        assert main(["corrupt", "--root", root, *out, *FEW, *arguments[1:]]) == 1
        assert "give another --out" in capsys.readouterr().err
        assert contents(tmp_path) == before


def test_damaged_array_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar(tmp_path / "root", n=6)
    arguments = ["corrupt", "--root", str(tmp_path / "root"), *FEW]
    assert main(arguments) == 0
    array = tmp_path / "root-C" / "contrast.npy"
    array.write_bytes(array.read_bytes()[:-1])
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert str(array) in message and "delete it" in message


def test_corrupt_needs_to_know_which_of_two_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_cifar(root, n=6)
    write_cifar(root, name="cifar100", n=3)
    assert main(["corrupt", "--root", str(root), *FEW]) == 1
    assert "say which by --name, and by --out" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "out")]
    assert main(["corrupt", "--root", str(root), "--name", "cifar100", *out, *FEW]) == 0
    assert len(np.load(tmp_path / "out" / "labels.npy")) == 15


def test_corrupt_never_writes_into_a_read_only_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    write_cifar(shared / "root", n=6)
    shared.chmod(0o555)
    try:
        before = contents(tmp_path)
        assert main(["corrupt", "--root", str(shared / "root"), *FEW]) == 1
        assert "another folder by --out" in capsys.readouterr().err
        assert contents(tmp_path) == before
        out = ["--out", str(tmp_path / "out")]
        assert main(["corrupt", "--root", str(shared / "root"), *out, *FEW]) == 0
    finally:
        shared.chmod(0o755)


def test_unknown_corruption_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cifar(tmp_path / "root", n=6)
    arguments = ["corrupt", "--root", str(tmp_path / "root"), "--corruptions", "contrast", "smog"]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "smog" in message and "brightness" in message and message.count("\n") == 1
    assert not (tmp_path / "root-C").exists()


def test_jpeg_copies_become_a_set_of_their_own_name(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
    images = images.repeat(8, 1).repeat(8, 2)
    packed = []
    for image in images:
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=100, subsampling=0)
        packed.append(out.getvalue())
    offsets = np.cumsum([0, *map(len, packed)])
    content = np.frombuffer(b"".join(packed), np.uint8)
    labels = {"train_labels": np.arange(5), "test_labels": np.array([9, 8])}
    np.savez(tmp_path / "copies.npz", jpeg=content, offsets=offsets, **labels)
    command = ["cifar10_jpegq75", f"--from={tmp_path / 'copies.npz'}", f"--root={tmp_path / 'set'}"]
    assert main(command) == 0
    found, own = read_cifar(tmp_path / "set", train=True)
    assert own.tolist() == [0, 1, 2, 3, 4] and np.abs(found.astype(int) - images[:5]).max() < 10
    assert read_cifar(tmp_path / "set", train=False)[1].tolist() == [9, 8]
    data = CIFAR(str(tmp_path / "set"), corruptions=[])
    with pytest.warns(UserWarning, match="not its files"):
        data.read()
    assert data.title == "cifar10-jpegq75 (5+2 images)"
    before = (tmp_path / "set" / "cifar-10-batches-py" / "test_batch").read_bytes()
    np.savez(tmp_path / "copies.npz", jpeg=content, offsets=offsets[:-1], **labels)
    assert main(command) == 0, "nothing to do"
    assert (tmp_path / "set" / "cifar-10-batches-py" / "test_batch").read_bytes() == before
    assert main([*command[:2], f"--root={tmp_path / 'other'}"]) == 1
