"""Every place that prepares data, on tiny sources, and processes that do so until they are killed.

They run in forks of :class:`tests.reliability.launcher.Launcher`, by :func:`prepare`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data.errors import DataNotFoundError
from data.files import only_one
from data.prepare import __main__ as command
from data.prepare.catalogue import Published, RemoteFile
from data.segmentation.layouts import open_collection
from data.text.cache import open_corpus
from tests.archive_bytes import gz, tar_bytes
from tests.data.imagenet.imagenet_archives import take_for_published, write_registered
from tests.fakes import CLASS_NAMES, reviews, write_cifar, write_imagenet, write_imdb, write_sst2
from tests.reliability.faults import Patches
from tests.segmentation_fakes import write_gta5

SET = {"set/pixels": bytes(range(256)) * 40, "set/labels": b"0123"}
ARCHIVE = gz(tar_bytes(list(SET.items())))
CORRUPTIONS = ("contrast", "brightness")
WEIGHTS = "ResNet18_Weights.IMAGENET1K_V1"
PATIENCE = 300.0  # seconds; a test that failed tells nobody to go on
URL = "CNSN_TEST_URL"  # variable: of a local server that has ARCHIVE
Moment = Literal["never", "before", "within"]


@dataclass(frozen=True)
class Preparation:
    """How data are made in a folder.

    Attributes:
        run: makes them there from what `write_sources` left in the first folder.
        work: the function that is called for each piece of work.
        units: given the folder, what a reader finds there and takes for whole.
    """

    run: Callable[[Path, Path], None]
    work: str
    units: Callable[[Path], list[Path]]


def write_sources(folder: Path) -> None:
    """What all preparations start from."""
    write_imdb(folder / "text", reviews(4), pack=True)
    write_sst2(folder / "text", n=4)
    write_cifar(folder / "cifar", n=10)
    write_imagenet(folder / "imagenet", n=2, classes=CLASS_NAMES[:1])
    write_gta5(folder / "gta5", 8)
    (folder / "registered").mkdir()
    write_registered(folder / "registered")
    (folder / "weights").mkdir()
    content = folder / "weights" / "x"
    torch.save({"layer": torch.arange(6.0)}, content)
    digest = hashlib.sha256(content.read_bytes()).hexdigest()[:8]
    content.rename(folder / "weights" / f"tiny-{digest}.pth")


def _command(*arguments: str | Path) -> None:
    code = command.main(list(map(str, arguments)), allow_local_http=True)
    if code:
        raise SystemExit(code)


def _text(sources: Path, place: Path) -> None:
    os.environ["CNSN_CACHE"] = str(place / "cache")
    corpus = open_corpus(sources / "text", sources / "text", min_count=1, max_words=None)
    print(corpus.fingerprint)


def _published(_: Path, place: Path) -> None:
    def missing(root: Path) -> str:
        found = [root / name for name in SET if (root / name).is_file()]
        return "" if len(found) == len(SET) else "not all is there"

    file = RemoteFile(
        url="https://unreachable.invalid/set.tar.gz",
        size=len(ARCHIVE),
        sha256=hashlib.sha256(ARCHIVE).hexdigest(),
        folder="set",
        unpacked=len(SET["set/pixels"]),
    )
    command.SETS["set"] = Published(title="A set", about="x", files=(file,), missing=missing)
    _command("set", "--root", place / "root", "--mirror", os.environ[URL], "--retries", "0")


def _weights(sources: Path, place: Path) -> None:
    from torchvision.models import get_weight

    from tasks.engine.weights import named_state_dict

    (file,) = (sources / "weights").iterdir()
    torch.hub.set_dir(str(place / "hub"))
    get_weight(WEIGHTS).value.url = file.as_uri()
    assert named_state_dict(WEIGHTS)["layer"].tolist() == [0, 1, 2, 3, 4, 5]


def _corrupt(sources: Path, place: Path) -> None:
    options = ("--workers", "1", "--corruptions", *CORRUPTIONS)
    _command("corrupt", "--root", sources / "cifar", "--out", place / "out", *options)


def _corrupt_folder(sources: Path, place: Path) -> None:
    options = ("--image_size", "16", "--workers", "1", "--corruptions", CORRUPTIONS[0])
    _command("corrupt_folder", "--root", sources / "imagenet", "--out", place / "out", *options)


def _imagenet(sources: Path, place: Path) -> None:
    root = place / "root"
    root.mkdir(exist_ok=True)
    for archive in (sources / "registered").iterdir():
        if not (root / archive.name).is_symlink():
            (root / archive.name).symlink_to(archive)
    take_for_published(root, Patches)
    _command("imagenet", "--root", root)


def _resized(sources: Path, place: Path) -> None:
    _command("resized", "--root", sources / "gta5", "--out", place / "out", "--workers", "2")


def _scenes(_: Path, place: Path) -> None:
    size = ("--source", "8", "--target", "1", "--width", "16", "--height", "16")
    _command("scenes", "--root", place / "root", *size)


def _domains(_: Path, place: Path) -> None:
    _command("domains", "--root", place / "root", "--images", "1", "--size", "16")


def _there(*patterns: str) -> Callable[[Path], list[Path]]:
    return lambda place: [path for pattern in patterns for path in sorted(place.glob(pattern))]


def _usable_copy(place: Path) -> list[Path]:
    try:
        open_collection(place / "out", ("train", "val"))
    except DataNotFoundError:
        return []
    return [place / "out"]


PREPARATIONS = {
    "text": Preparation(_text, "data.text.cache._encode", _there("cache/*.npz")),
    "published": Preparation(
        _published, "data.prepare.__main__._fetch_file", _there("root/set", "root/set.tar.gz")
    ),
    "weights": Preparation(
        _weights, "torch.hub.download_url_to_file", _there("hub/checkpoints/*.pth")
    ),
    "corrupt": Preparation(_corrupt, "data.corruptions.arrays._write_one", _there("out/*.npy")),
    "corrupt_folder": Preparation(
        _corrupt_folder, "data.imagenet.corrupted._write_chunk", _there("out/*/[1-5]")
    ),
    "imagenet": Preparation(
        _imagenet, "torchvision.datasets.imagenet.extract_archive", _there("root/train", "root/val")
    ),
    "resized": Preparation(_resized, "data.prepare.segmentation._resize", _usable_copy),
    "scenes": Preparation(
        _scenes, "data.generated.scenes._scenes", _there("root/scenes-day", "root/scenes-dusk")
    ),
    "domains": Preparation(_domains, "data.generated.domains.draw", _there("root")),
}


def prepare(name: str, sources: str, place: str, moment: Moment = "never", event: int = 0) -> None:
    """In a fork: prepare, note the work, and die at an event if so planned.

    Args:
        name: of the preparation.
        sources: the folder that :func:`write_sources` filled.
        place: where the data go; while it has a file ``hold``, work that is begun waits.
        moment: "before" a change to the file system, or "within" the writing of a new file, with a
            part of it there.
        event: number of the change or file, from 0.
    """
    found = PREPARATIONS[name]
    _note_work(found.work, Path(place))
    if moment != "never":
        _die_at(moment, event, Path(place))
    found.run(Path(sources), Path(place))


def hold_and_fork(place: str) -> None:
    """In a fork: take the lock, write so, and start a child that lives while ``hold`` is there."""
    folder = Path(place)
    with only_one(folder / "x.lock"):
        if os.fork() == 0:
            _wait_while(folder / "hold")
            os._exit(0)
        part = folder / "held.part"
        part.write_text(str(os.getpid()))
        part.rename(folder / "held")
        _wait_while(folder / "hold")


def _wait_while(there: Path) -> None:
    end = time.monotonic() + PATIENCE
    while there.exists():
        if time.monotonic() > end:
            os._exit(1)
        time.sleep(0.005)


def _note_work(function: str, place: Path) -> None:
    """Add a line to ``work`` at each call of the function."""
    name, _, attribute = function.rpartition(".")
    module = importlib.import_module(name)
    original = getattr(module, attribute)

    @functools.wraps(original)
    def noting(*arguments: Any, **options: Any) -> Any:
        with (place / "work").open("a") as file:
            file.write("begun\n")
        _wait_while(place / "hold")
        return original(*arguments, **options)

    setattr(module, attribute, noting)


CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR


def _die_at(moment: Moment, event: int, place: Path) -> None:
    """Count what this process changes below `place`, and end with the event of this number."""
    seen, own = [-1], os.getpid()

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if os.getpid() != own or not (name in CHANGES or name == "open"):
            return
        path = arguments[0]
        if not isinstance(path, (str, os.PathLike)) or not str(path).startswith(f"{place}/"):
            return
        if str(path).endswith((".lock", "/work")) or (name == "open" and not _writes(arguments)):
            return
        if moment == "within" and (name != "open" or os.path.exists(path)):
            return
        seen[0] += 1
        if seen[0] != event:
            return
        if moment == "within":
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, b"{")
        os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    return bool(int(arguments[2] or 0) & WRITING)
