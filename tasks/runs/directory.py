"""Where a run lives: runs/<task>/<name>/seed<k>-<hash of what was asked>.

The same command finds the same directory again, so that an unfinished run resumes and a finished
one is not run twice; another command never writes into it. Neither the working directory nor the
place of the data counts: data are known by their name and, in `finished.json`, their fingerprint.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from filelock import Timeout

from data.files import json_text, replacing
from data.locks import Lock
from tasks.runs.checkpoints import LAST, PREVIOUS, newest_readable
from tasks.runs.recipe import Config

CLASSES = "classes.json"

__all__ = [
    "RunDirectory",
    "finished_fit",
    "name_of",
]


def finished_fit(checkpoint: Path) -> Config | None:
    """The record of the finished fit that `checkpoint`, the last of any run, is the end of.

    A link counts as the file that it leads to.
    """
    checkpoint = checkpoint.resolve()
    return _finished(checkpoint.parent.parent) if checkpoint.name == "last.ckpt" else None


def name_of(checkpoint: Path, runs: Path) -> str | None:
    """The `--name` of the run below ``<runs>/<task>`` that a checkpoint is of; None elsewhere.

    Folders of runs may be links, to another disk, say.
    """
    folder, given = checkpoint.resolve().parents[2], checkpoint.absolute().parents[2]
    if runs.resolve() in folder.parents:
        return folder.relative_to(runs.resolve()).as_posix()
    if runs.absolute() in given.parents and given.resolve() == folder:
        return given.relative_to(runs.absolute()).as_posix()
    return None


def _finished(folder: Path) -> Config | None:
    path = folder / "finished.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        return {"steps": int(record["steps"]), **record}
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} to say how the run ended, but it is damaged: delete it, and `fit` "
            "with the same options goes on from the last checkpoint."
        ) from error


class RunDirectory:
    """One run's directory and its state.

    Args:
        base: ``runs/<task>/<name>``.
        seed: of the run.
        digest: the first of :func:`digests_of`.
        older: the others, whose directory counts where there is none of today's.
        fresh: take a new numbered directory where this run has one already.
    """

    # Processes that rank 0 starts must share its choice of a fresh directory.
    VARIABLE = "CNSN_RUN_DIRECTORY"

    def __init__(
        self,
        base: Path,
        *,
        seed: int,
        digest: str,
        older: Sequence[str] = (),
        fresh: bool = False,
    ) -> None:
        paths = [base / f"seed{seed}-{own}" for own in (digest, *older)]
        self.path = next((path for path in paths if path.exists()), paths[0])
        self.fresh = fresh
        shared = os.environ.get(self.VARIABLE)
        if fresh and shared:
            self.path = Path(shared)
        elif fresh:
            number = 2
            first = self.path
            while self.path.exists():
                self.path = first.with_name(f"{first.name}.{number}")
                number += 1
            os.environ[self.VARIABLE] = str(self.path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    def resume_point(self) -> Path | None:
        """The newest checkpoint that can be read; see :func:`newest_readable`."""
        return newest_readable(self.checkpoints)

    def outlook(self) -> str:
        """What the same command does with a run that ended early, in a sentence."""
        if not any((self.checkpoints / name).is_file() for name in (LAST, PREVIOUS)):
            return "There is no checkpoint yet: the same command starts from the beginning."
        resumes = "he same command resumes from the last checkpoint"
        if self.fresh:
            variable = f"{self.VARIABLE}={shlex.quote(str(self.path))}"
            return f"With {variable} t{resumes}; without, it trains another run."
        return f"T{resumes}."

    def finished(self) -> Config | None:
        """The record of the finished fit; None while it is unfinished."""
        return _finished(self.path)

    def reopen(self) -> None:
        """It trains again: until its end nothing may take it for finished."""
        (self.path / "finished.json").unlink(missing_ok=True)

    def trained(self, checkpoint: Path) -> Config | None:
        """The record of the finished fit that `checkpoint` is the end or the best epoch of.

        None if it is another checkpoint, of a run that is unfinished, or of another recipe; a run
        repeated by ``--fresh`` has the same recipe.
        """
        checkpoint = checkpoint.resolve()
        home = checkpoint.parent.parent
        same = home.name.partition(".")[0] == self.path.name.partition(".")[0]
        if (
            checkpoint.name not in (self.last.name, "best.ckpt")
            or not same
            or home.parent != self.path.parent.resolve()
        ):
            return None
        return _finished(home)

    def hold(self) -> Lock:
        """Keep other processes from training here; it is freed when its holder dies.

        Raises:
            ValueError: another process trains here now.
        """
        lock = Lock(self.path / "training.lock")
        try:
            return lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"Expected no other process to train in {self.path}, but one does: wait until it "
                f"has ended, or train beside it with another `--name`.{lock.way_out()}"
            ) from error

    def write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / name, mark=os.getpid()) as part:
            part.write_text(text)

    def finish(self, record: Config) -> None:
        self.write("finished.json", json_text(record, indent=1) + "\n")
