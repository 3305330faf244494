"""Data are prepared once, also by processes that start at once or are killed while they do it."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.local_server import Server, contents
from tests.reliability import preparations
from tests.reliability.launcher import Launcher, Process
from tests.reliability.preparations import ARCHIVE, PREPARATIONS, URL, write_sources
from tests.reliability.runs import succeeded
from tests.reliability.soak import descendants

pytestmark = pytest.mark.promise(
    "data are prepared once by processes that start together, and a killed one leaves nothing half"
)
# With few changes to the file system.
QUICK = ("text", "resized")
EVERY = pytest.mark.parametrize("name", list(PREPARATIONS))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


class Preparing:
    """Starts one preparation in folders below `base`; ``alone`` is what an undisturbed one made."""

    def __init__(self, warm: Launcher, name: str, sources: Path, base: Path, url: str) -> None:
        self.warm, self.name, self.sources, self.base, self.url = warm, name, sources, base, url
        if not (base / "alone").is_dir():
            succeeded(self.start(self.place("alone")))
        self.alone = self.made("alone")
        self.work = self.count("alone")
        assert self.work

    def place(self, folder: str) -> Path:
        path = self.base / folder
        path.mkdir(exist_ok=True)
        return path

    def start(self, place: Path, *fault: Any) -> Process:
        arguments = (self.name, str(self.sources), str(place), *fault)
        environment = {URL: self.url, "no_proxy": "*"}
        return self.warm.call(f"{preparations.__name__}.prepare", *arguments, **environment)

    def held(self, folder: str) -> Process:
        """One that has begun work, and waits there while the folder's ``hold`` is there."""
        place = self.place(folder)
        (place / "hold").touch()
        process = self.start(place)
        until(lambda: self.count(folder), process)
        return process

    def made(self, folder: str) -> dict[str, Any]:
        """All files but locks, by content."""
        found = timeless(contents(self.base / folder))
        kept = (n for n in found if found[n] is not None and not n.endswith((".lock", "work")))
        return {name: found[name] for name in kept}

    def count(self, folder: str) -> int:
        path = self.base / folder / "work"
        return len(path.read_text().splitlines()) if path.is_file() else 0

    def whole(self, folder: str) -> None:
        """What a reader takes for whole, is."""
        for unit in PREPARATIONS[self.name].units(self.base / folder):
            found, expected = (self.files(base, unit, folder) for base in (folder, "alone"))
            assert found == expected, f"{unit} is not whole"

    def files(self, base: str, unit: Path, folder: str) -> dict[str, Any]:
        path = self.base / base / unit.relative_to(self.base / folder)
        if path.is_file():
            return {"": path.read_bytes()}
        found = timeless(contents(path))
        return {n: c for n, c in found.items() if not n.rpartition("/")[2].startswith(".")}


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """Without the date in the head of Matlab's files."""
    return {n: c[128:] if n.endswith(".mat") else c for n, c in found.items()}


@pytest.fixture
def preparing(name: str, warm: Launcher, sources: Path, server: Server) -> Preparing:
    server.answer = lambda handler, _: handler.file(ARCHIVE)
    base = sources.with_name(f"{sources.name}-{name}")
    base.mkdir(exist_ok=True)
    return Preparing(warm, name, sources, base, server.url.rpartition("/")[0])


def until(condition: Any, process: Process, patience: float = 60.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.output()
        time.sleep(0.005)


@EVERY
def test_two_at_once_do_the_work_of_one(preparing: Preparing) -> None:
    first, place = preparing.held("both"), preparing.place("both")
    second = preparing.start(place)
    until(lambda: "waiting until it has finished" in second.output(), second)
    (place / "hold").unlink()
    output = succeeded(first), succeeded(second)
    assert "waiting" not in output[0]
    assert preparing.count("both") == preparing.work
    assert preparing.made("both") == preparing.alone


@EVERY
def test_killed_at_work_it_holds_up_nobody(preparing: Preparing) -> None:
    """Nor do the processes that it had started, which end with it."""
    first, place = preparing.held("killed"), preparing.place("killed")
    workers = descendants(first.pid)
    assert bool(workers) == (preparing.name == "resized")
    first.kill()
    assert first.wait() == -signal.SIGKILL
    second = preparing.start(place)
    until(lambda: preparing.count("killed") > max(1, len(workers)), second)
    (place / "hold").unlink()
    assert "waiting" not in succeeded(second)
    preparing.whole("killed")
    assert preparing.made("killed") == preparing.alone
    gone = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < gone, f"{workers} outlive their parent"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["resized"])
def test_a_killed_worker_is_said_and_the_same_command_continues(preparing: Preparing) -> None:
    first, place = preparing.held("broken"), preparing.place("broken")
    os.kill(descendants(first.pid)[0], signal.SIGKILL)
    assert first.wait() == 1
    assert "Error: A worker process was ended from outside" in first.output()
    assert "Traceback" not in first.output()
    (place / "hold").unlink()
    succeeded(preparing.start(place))
    assert preparing.made("broken") == preparing.alone


def test_the_lock_of_a_killed_process_is_free_though_its_children_live(
    warm: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    holder = warm.call(f"{preparations.__name__}.hold_and_fork", str(tmp_path))
    until(lambda: (tmp_path / "held").exists(), holder)
    (child,) = descendants(holder.pid)
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    after = warm.call(f"{preparations.__name__}.hold_and_fork", str(tmp_path))
    until(lambda: (tmp_path / "held").read_text() == str(after.pid), after)
    assert Path(f"/proc/{child}").exists() and "waiting" not in after.output()
    (tmp_path / "hold").unlink()
    succeeded(after)


@pytest.mark.parametrize("moment", ["before", "within"])
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in PREPARATIONS
    ],
)
def test_killed_at_any_change_nothing_half_is_read(
    preparing: Preparing, moment: str, record_property: Any
) -> None:
    for event in itertools.count():
        folder = f"{moment}{event}"
        place = preparing.place(folder)
        code = preparing.start(place, moment, event).wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        preparing.whole(folder)
        succeeded(preparing.start(place))
        assert preparing.made(folder) == preparing.alone
    assert event > 0
    record_property("cases", event)
