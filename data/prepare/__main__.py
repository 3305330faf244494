"""`python -m data.prepare NAME --root DIR` puts a data set where the tasks look for it.

A published set is downloaded (an interrupted download is continued), compared with its published
size and checksum, and unpacked so that a folder appears only when it is complete. A finished one
is left as it is. Sets are described in modules of their own (`data.prepare.cifar`, ...) and
gathered in `SETS`: a `Published` one for files that others host, a `Made` one for data made here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

from data.archives import ArchiveError, remove_leftovers, unpack
from data.errors import DataNotFoundError
from data.files import format_bytes, only_one, require_writable, say
from data.prepare import (
    cifar as cifar_sets,
)
from data.prepare import cifar_jpeg, scenes
from data.prepare import (
    domains as domain_sets,
)
from data.prepare import (
    imagenet as imagenet_sets,
)
from data.prepare import (
    segmentation as segmentation_resized,
)
from data.prepare import (
    text as text_sets,
)
from data.prepare.catalogue import Made, Published, RemoteFile, folder_path, natural
from data.prepare.download import DownloadError, download

__all__ = ["SETS", "main"]

_MARGIN = 1.1  # unpacked bytes may exceed the expected ones by this factor, for folders and headers

SETS: dict[str, Published | Made] = {
    **cifar_sets.SETS,
    **domain_sets.SETS,
    **imagenet_sets.SETS,
    **cifar_jpeg.SETS,
    **scenes.SETS,
    **segmentation_resized.SETS,
    **text_sets.SETS,
}


def _fetch(entry: Published, options: argparse.Namespace) -> None:
    """Download, check and unpack what is missing of `entry` below the root."""
    root: Path = options.root
    problem = entry.missing(root)
    absent = _absent(entry, root)
    if problem and not absent:
        problem = entry.missing(root)  # Another process may just have finished it.
    if not problem:
        say(f"{entry.title} is complete in {root}: nothing to do.")
        return
    if not absent:
        raise _another_set(entry, problem)
    require_writable(root, "choose another --root")
    with only_one(root / ".prepare.lock"):
        problem = entry.missing(root)
        if not problem:
            say(f"{entry.title} is complete in {root} now: another process has finished it.")
            return
        say(f"{entry.title}: {entry.about}")
        remove_leftovers(root)
        files = _absent(entry, root)
        if not files:
            raise _another_set(entry, problem)
        _require_space(root, files)
        for file in files:
            _fetch_file(entry, file, options)
        problem = entry.missing(root)
    if problem:
        raise DataNotFoundError(f"{entry.title} is still not complete in {root}: {problem}.")
    say(f"Done: {entry.title} is complete in {root}.")


def _absent(entry: Published, root: Path) -> list[RemoteFile]:
    """The files whose result is not there."""
    return [file for file in entry.files if not os.path.lexists(root / (file.folder or file.name))]


def _another_set(entry: Published, problem: str) -> DataNotFoundError:
    """All is there, and not as published."""
    return DataNotFoundError(
        f"{problem}: this is not the complete published {entry.title}, and nothing is "
        "overwritten. Move it away or choose another --root, then run again."
    )


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
        say(f"  {archive} is there: checking it")
    else:
        part = archive.with_name(file.name + ".part")
        verb = "continuing" if part.exists() else "downloading"
        say(f"  {verb} {url} ({_size(file)})")
    download(
        url,
        archive,
        size=file.size or None,
        md5=file.md5,
        sha256=file.sha256,
        timeout=options.timeout,
        retries=options.retries,
        allow_local_http=options.allow_local_http,
    )
    if file.folder is not None:
        say(f"  unpacking {file.name} ({format_bytes(file.unpacked)}) into {root / file.folder}")
        limit = int(file.unpacked * _MARGIN) + (1 << 20)
        unpack(archive, root, folder=file.folder, max_bytes=limit, expected=file.unpacked)
        say(f"  {archive} is not needed any more and may be deleted")


def _require_space(root: Path, files: Sequence[RemoteFile]) -> None:
    """Refuse at once what would fill the disk an hour later."""
    needed = sum(file.unpacked for file in files)
    for file in files:
        if not (root / file.name).exists():
            part = root / (file.name + ".part")
            needed += max(0, file.size - (part.stat().st_size if part.exists() else 0))
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"{format_bytes(needed)} are needed in {root} but only {format_bytes(free)} are free: "
            "free space or choose another --root."
        )


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
            "--root",
            type=folder_path,
            required=True,
            metavar="DIR",
            help="folder that holds the data",
        )
        command.add_argument("--traceback", action="store_true", help="show where an error arose")
        if isinstance(entry, Published):
            _download_options(command)
        else:
            entry.add_options(command)
    return parser


def _size(file: RemoteFile) -> str:
    return format_bytes(file.size) if file.size else "of unpublished size"


def _describe(entry: Published | Made) -> str:
    if isinstance(entry, Made):
        return f"{entry.about[0].upper()}{entry.about[1:]}."
    files = "; ".join(
        f"{file.url} ({_size(file)}"
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
    parser.add_argument("--retries", type=natural, default=5, help="attempts after a failure (5)")


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
    except (ArchiveError, BrokenExecutor, DownloadError, OSError, ValueError) as error:
        if options.traceback:
            raise
        print(f"Error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, BrokenExecutor):
        return (
            "A worker process was ended from outside, as it is where memory runs out: run the same "
            "command again to continue, with fewer --workers."
        )
    if isinstance(error, OSError) and error.strerror:  # the system's, which knows no remedy
        return (
            f"{error.filename or 'The disk'} cannot be used ({error.strerror}): check the folder "
            "and its permissions, free space, or choose another one, then run again."
        )
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
