"""`python -m data.prepare NAME --root DIR` puts a data set where the tasks look for it.

A published set is downloaded (an interrupted download is continued), compared with its published
size and checksum, and unpacked so that a folder appears only when it is complete. A finished one
is left as it is. To add a set, add one entry to `SETS`: a `Published` one for files that others
host, a `Made` one for data that are computed here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from filelock import FileLock, Timeout

from data.archives import (
    ArchiveError,
    DownloadError,
    difference,
    download,
    format_bytes,
    remove_leftovers,
    unpack,
)
from data.cifar import SETS as LAYOUTS
from data.cifar import CIFARName, folder_of, read_cifar
from data.errors import DataNotFoundError

__all__ = ["SETS", "Made", "Published", "RemoteFile", "main"]

_MARGIN = 1.1  # unpacked bytes may exceed the expected ones by this factor, for folders and headers


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a published set.

    Attributes:
        url: https address.
        size: bytes.
        md5, sha256: as published, in hexadecimal; at least one, or `--mirror` is refused.
        folder: the folder below the root that it is unpacked into; None keeps it as it is.
        unpacked: bytes that the folder takes.
    """

    url: str
    size: int
    md5: str | None = None
    sha256: str | None = None
    folder: str | None = None
    unpacked: int = 0

    @property
    def name(self) -> str:
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A set that others host.

    Attributes:
        title: what it is called.
        about: one line of help: what it is, who made it.
        files: what is downloaded.
        missing: given the root, what is not as published there, in words; "" when all is.
        by_hand: how a person fetches the files, for hosts that forbid doing it automatically.
    """

    title: str
    about: str
    files: tuple[RemoteFile, ...]
    missing: Callable[[Path], str]
    by_hand: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """Data computed here: `add_options` declares its options, `make` does the work."""

    title: str
    about: str
    add_options: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], None]


def _say(line: str) -> None:
    print(line, flush=True)


# ------------------------------------------------------------------------------- published files


def _fetch(entry: Published, options: argparse.Namespace) -> None:
    """Download, check and unpack what is missing of `entry` below the root."""
    root: Path = options.root
    problem = entry.missing(root)
    if not problem:
        _say(f"{entry.title} is complete in {root}: nothing to do.")
        return
    _absent_files(entry, root, problem)
    _require_writable(root, "choose another --root")
    with _only_one(root / ".prepare.lock"):
        problem = entry.missing(root)
        if not problem:
            _say(f"{entry.title} is complete in {root} now: another process has finished it.")
            return
        _say(f"{entry.title}: {entry.about}")
        remove_leftovers(root)
        files = _absent_files(entry, root, problem)
        _require_space(root, files)
        for file in files:
            _fetch_file(entry, file, options)
        problem = entry.missing(root)
    if problem:
        raise DataNotFoundError(f"{entry.title} is still not complete in {root}: {problem}.")
    _say(f"Done: {entry.title} is complete in {root}.")


def _absent_files(entry: Published, root: Path, problem: str) -> list[RemoteFile]:
    """The files whose result is not there; an error where what is there is something else."""
    files = [file for file in entry.files if not os.path.lexists(root / (file.folder or file.name))]
    if not files:
        raise DataNotFoundError(
            f"{problem}: this is not the complete published {entry.title}, and nothing is "
            "overwritten. Move it away or choose another --root, then run again."
        )
    return files


def _fetch_file(entry: Published, file: RemoteFile, options: argparse.Namespace) -> None:
    root: Path = options.root
    archive = root / file.name
    if entry.by_hand and not options.mirror and not archive.exists():
        raise DataNotFoundError(f"{entry.by_hand} Put {file.name} into {root} and run again.")
    url = f"{options.mirror.rstrip('/')}/{file.name}" if options.mirror else file.url
    if options.mirror and not (file.md5 or file.sha256):
        raise DownloadError(
            f"No checksum of {file.name} is known, so a mirror cannot be trusted with it: run "
            "without --mirror."
        )
    if archive.exists():
        _say(f"  {archive} is there: checking it")
    else:
        part = archive.with_name(file.name + ".part")
        verb = "continuing" if part.exists() else "downloading"
        _say(f"  {verb} {url} ({format_bytes(file.size)})")
    download(
        url,
        archive,
        size=file.size,
        md5=file.md5,
        sha256=file.sha256,
        timeout=options.timeout,
        retries=options.retries,
        allow_local_http=options.allow_local_http,
    )
    if file.folder is not None:
        _say(f"  unpacking {file.name} ({format_bytes(file.unpacked)}) into {root / file.folder}")
        limit = int(file.unpacked * _MARGIN) + (1 << 20)
        unpack(archive, root, folder=file.folder, max_bytes=limit)
        _say(f"  {archive} is not needed any more and may be deleted")


def _require_space(root: Path, files: Sequence[RemoteFile]) -> None:
    """Refuse at once what would fill the disk an hour later."""
    needed = sum(file.unpacked for file in files)
    for file in files:
        if not (root / file.name).exists():
            part = root / (file.name + ".part")
            needed += file.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"{format_bytes(needed)} are needed in {root} but only {format_bytes(free)} are free: "
            "free space or choose another --root."
        )


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock `path`; wait, and say so, while another process holds it.

    filelock (which torch depends on) rather than a file of our own: the system frees its lock
    when a process dies, on every platform.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"Another preparation holds {path}: waiting until it has finished.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------ what is complete


def _missing_cifar(name: CIFARName, root: Path) -> str:
    layout = LAYOUTS[name]
    for file, md5 in (layout.train | layout.test).items():
        problem = difference(root / layout.folder / file, md5=md5)
        if problem:
            return f"{root / layout.folder / file}: {problem}"
    return ""


def _missing_corrupted(folder: str, count: int, root: Path) -> str:
    from data.corrupted_set import open_corrupted
    from data.corruptions import ALL_CORRUPTIONS

    try:
        open_corrupted(root / folder, ALL_CORRUPTIONS, n=count)
    except (OSError, ValueError) as error:
        return str(error).rstrip(".")
    return ""


# --------------------------------------------------------------------------------- corrupted sets


def _corrupt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=_folder,
        help='folder to make; default: beside the root, its name with "-C" after it',
    )
    parser.add_argument(
        "--name",
        choices=("cifar10", "cifar100"),
        help="which set, where the root holds both",
    )
    parser.add_argument("--seed", type=_natural, default=0, help="of everything random (0)")
    parser.add_argument("--workers", type=_positive, help="cores to use; default: all of them")
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="only these; default: all 19"
    )


def _corrupt(options: argparse.Namespace) -> None:
    """Make <corruption>.npy and labels.npy from the test images of a CIFAR-layout root."""
    # torch only where it is needed: the rest of this command answers at once
    from data.corrupted_set import open_corrupted, write_corrupted
    from data.corruptions import ALL_CORRUPTIONS

    names = tuple(dict.fromkeys(options.corruptions or ALL_CORRUPTIONS))
    unknown = [name for name in names if name not in ALL_CORRUPTIONS]
    if unknown:
        raise ValueError(
            f"Expected --corruptions to be among {', '.join(ALL_CORRUPTIONS)}, but got "
            f"{', '.join(unknown)}."
        )
    name, out = _which_cifar(options)
    images, labels = read_cifar(options.root, name, train=False)
    with _only_one(out.with_name(f".{out.name}.lock")):
        absent = [name for name in names if not (out / f"{name}.npy").exists()]
        if absent:
            _say(
                f"Corrupting the {len(images)} test images of {options.root}: {len(absent)} of "
                f"{len(names)} corruptions at 5 severities, seed {options.seed}, "
                f"{format_bytes(5 * images.nbytes * len(absent))}, into {out}"
            )
        # Also where nothing is to do: it refuses a folder made from other images or another seed.
        write_corrupted(
            images, labels, out, corruptions=names, seed=options.seed, workers=options.workers
        )
        open_corrupted(out, names, n=len(images))
    if absent:
        _say(f"Done: {out}")


def _which_cifar(options: argparse.Namespace) -> tuple[CIFARName, Path]:
    """Which set the root holds, and where its corrupted images go."""
    root: Path = options.root
    found: list[CIFARName] = []
    for candidate in get_args(CIFARName):
        with suppress(DataNotFoundError):
            folder_of(root, candidate)
            found.append(candidate)
    name: CIFARName = options.name or (found[0] if found else "cifar10")
    if name not in found:
        folder_of(root, name)  # raises the error that says what was expected
    if len(found) > 1 and not (options.name and options.out):
        raise ValueError(
            f"{root} holds {' and '.join(found)}: say which by --name, and by --out where its "
            "corrupted images go."
        )
    out: Path = options.out or root.with_name(root.name + "-C")
    _require_writable(out, "choose another folder by --out")
    return name, out


def _require_writable(folder: Path, remedy: str) -> None:
    """Refuse a folder that is read-only, or would have to be made in one that is."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    # The mode as well: the superuser may write everywhere, but was not meant to.
    meant = there.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if not (there.is_dir() and meant and os.access(there, os.W_OK)):
        raise PermissionError(f"{there} is not a folder that may be written to: {remedy}.")


# -------------------------------------------------------------------------------------- the sets

_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_ZENODO = "https://zenodo.org/records/"

SETS: dict[str, Published | Made] = {
    # MD5: https://www.cs.toronto.edu/~kriz/cifar.html. Sizes and SHA-256 are not given there;
    # they are those that Keras' and torchdata's loaders and download logs agree on.
    "cifar10": Published(
        title="CIFAR-10",
        about="60,000 colour images of 32x32 in 10 classes (Krizhevsky 2009)",
        files=(
            RemoteFile(
                url=_CIFAR + "cifar-10-python.tar.gz",
                size=170_498_071,
                md5="c58f30108f718f92721af3b95e74349a",
                sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                folder="cifar-10-batches-py",
                unpacked=186_400_000,
            ),
        ),
        missing=partial(_missing_cifar, "cifar10"),
    ),
    "cifar100": Published(
        title="CIFAR-100",
        about="60,000 colour images of 32x32 in 100 classes (Krizhevsky 2009)",
        files=(
            RemoteFile(
                url=_CIFAR + "cifar-100-python.tar.gz",
                size=169_001_437,
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                folder="cifar-100-python",
                unpacked=186_400_000,
            ),
        ),
        missing=partial(_missing_cifar, "cifar100"),
    ),
    # MD5 and size: the Zenodo record, https://zenodo.org/records/2535967. SHA-256:
    # tensorflow_datasets/url_checksums/cifar10_corrupted.txt in tensorflow/datasets.
    "cifar10c": Published(
        title="CIFAR-10-C",
        about="CIFAR-10's test images under 19 corruptions (Hendrycks & Dietterich 2019)",
        files=(
            RemoteFile(
                url=_ZENODO + "2535967/files/CIFAR-10-C.tar",
                size=2_918_471_680,
                md5="56bf5dcef84df0e2308c6dcbcbbd8499",
                sha256="c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
                folder="CIFAR-10-C",
                unpacked=2_918_471_680,
            ),
        ),
        missing=partial(_missing_corrupted, "CIFAR-10-C", 10_000),
    ),
    # MD5 and size: the Zenodo record, https://zenodo.org/records/3555552. No SHA-256 is published.
    "cifar100c": Published(
        title="CIFAR-100-C",
        about="CIFAR-100's test images under 19 corruptions (Hendrycks & Dietterich 2019)",
        files=(
            RemoteFile(
                url=_ZENODO + "3555552/files/CIFAR-100-C.tar",
                size=2_918_473_216,
                md5="11f0ed0f1191edbf9fa23466ae6021d3",
                folder="CIFAR-100-C",
                unpacked=2_918_473_216,
            ),
        ),
        missing=partial(_missing_corrupted, "CIFAR-100-C", 10_000),
    ),
    "corrupt": Made(
        title="corrupted test images",
        about="make the 19 corruptions of the test images of any root in CIFAR's layout",
        add_options=_corrupt_options,
        make=_corrupt,
    ),
}


# ---------------------------------------------------------------------------------- command line


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, but got {text}")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but got {text}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare",
        description="Fetch or make a data set. Interrupted, the same command continues; finished, "
        "it does nothing.",
    )
    commands = parser.add_subparsers(dest="name_of_set", metavar="SET", required=True)
    for name, entry in SETS.items():
        size = sum(file.size for file in entry.files) if isinstance(entry, Published) else 0
        about = entry.about + (f"; {format_bytes(size)}" if size else "")
        command = commands.add_parser(name, help=about, description=_describe(entry))
        command.add_argument(
            "--root", type=_folder, required=True, metavar="DIR", help="folder that holds the data"
        )
        command.add_argument("--traceback", action="store_true", help="show where an error arose")
        if isinstance(entry, Published):
            _download_options(command)
        else:
            entry.add_options(command)
    return parser


def _describe(entry: Published | Made) -> str:
    if isinstance(entry, Made):
        return f"{entry.about[0].upper()}{entry.about[1:]}."
    files = "; ".join(
        f"{file.url} ({format_bytes(file.size)}"
        + (
            f", unpacked into DIR/{file.folder}: {format_bytes(file.unpacked)})"
            if file.folder
            else ")"
        )
        for file in entry.files
    )
    return f"{entry.title}: {entry.about}. Downloads, checks and unpacks {files}. {entry.by_hand}"


def _download_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="https folder to take the files from instead; the checksums stay the same",
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds that a server may be silent (30)"
    )
    parser.add_argument("--retries", type=_natural, default=5, help="attempts after a failure (5)")


def main(arguments: Sequence[str] | None = None, *, allow_local_http: bool = False) -> int:
    """Run the command line; returns the exit code: 0, 1 for an error, 130 when interrupted.

    Args:
        arguments: without the program's name; None takes the process's.
        allow_local_http: for tests: permit a mirror at http://127.0.0.1.
    """
    options = _parser().parse_args(arguments)
    options.allow_local_http = allow_local_http
    entry = SETS[options.name_of_set]
    try:
        if isinstance(entry, Published):
            _fetch(entry, options)
        else:
            entry.make(options)
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to continue.", file=sys.stderr)
        return 130
    except (ArchiveError, DownloadError, OSError, ValueError) as error:
        if options.traceback:
            raise
        print(f"Error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # the system's, which knows no remedy
        return (
            f"{error.filename or 'The disk'} cannot be used ({error.strerror}): check the folder "
            "and its permissions, free space, or choose another one, then run again."
        )
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
