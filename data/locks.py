"""Locks of folders and files: the system's own, or a file that names its holder.

The system frees its lock (flock) when the holder dies. File systems of clusters may have none
(Lustre without ``-o flock``, NFS without its lock service, some FUSE and object stores). There a
marker beside it says which process holds it: one that ended on this machine is passed over, one of
another machine can only be told by a person, who may delete the marker.
"""

from __future__ import annotations

import errno
import fcntl
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from filelock import BaseFileLock, FileLock, SoftFileLock

__all__ = ["Lock", "exclusive"]

# What file systems without locks answer.
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
# Seconds for which a line may be waited to be added: whoever holds a file for longer is dead.
PATIENCE = 60.0
SECOND_LOOK = 0.2
_said: set[Path] = set()


class Lock:
    """One process at a time, by the file `path`, whose folder is made.

    Args:
        path: of the lock; its content means nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Its own way out leaves the two kinds at one name, where an empty file looks held for ever.
        self._held: BaseFileLock = FileLock(path, fallback_to_soft=False)

    @property
    def marker(self) -> Path:
        return _marker(self.path)

    def acquire(self, timeout: float = -1) -> Lock:
        """Take it, and be the context that frees it; ``with Lock(path):`` waits as well.

        Args:
            timeout: seconds to wait for another process; -1 waits as long as it takes.

        Raises:
            filelock.Timeout: another process holds it.
            OSError: the folder cannot be written to.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._held.acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            self._held = _soft(self.path)
            # The first look may but remove what a dead process left.
            self._held.acquire(timeout=timeout if timeout < 0 else max(timeout, SECOND_LOOK))
        return self

    def release(self) -> None:
        self._held.release()

    def __enter__(self) -> Lock:
        return self if self._held.is_locked else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def way_out(self) -> str:
        """A sentence on a holder that may have ended unseen; "" where the system would free it."""
        try:
            process, machine = self.marker.read_text().split()[:2]
            holder = f"process {process} of {machine}"
        except FileNotFoundError:
            return ""
        except (OSError, ValueError):
            holder = "a process that did not say which"
        return f" It is {holder}: if that has ended, delete {self.marker}."


@contextmanager
def exclusive(file: IO[Any], path: Path) -> Iterator[None]:
    """Hold the open `file`, whose name is `path`, against others that do so.

    Raises:
        filelock.Timeout: it is held for longer than adding a line takes.
        OSError: the folder can hold no marker, where its file system has no locks.
    """
    held: AbstractContextManager[object] = nullcontext()
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed with the file
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        held = _soft(path).acquire(timeout=PATIENCE)
    with held:
        yield


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")


def _soft(path: Path) -> SoftFileLock:
    folder = path.parent.resolve()
    if folder not in _said:
        _said.add(folder)
        warnings.warn(
            f"The file system of {folder} has no locks: files named *.holder stand for them there. "
            "One that a machine left behind as it went down is to be deleted by hand.",
            stacklevel=3,
        )
    return SoftFileLock(_marker(path))
