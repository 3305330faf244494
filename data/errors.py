"""Errors that the data sets share."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NO_DATA", "DataNotFoundError", "SampleError", "WorkerError", "listed", "quoted"]

NO_DATA = 66  # exit code where a data set is missing (sysexits' EX_NOINPUT)


class DataNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for.

    The message is one plain text: the root that was searched, the layout expected below it, the
    exact command that fetches it, and how to try the task on generated data instead.
    """


class _LineError(ValueError):
    """The message is one line.

    A loader's worker sends an error to the main process as a new one of the same type, with its
    traceback for a message: of that, the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        last = message.rstrip().rpartition("\n")[2]
        super().__init__(last.rpartition(f"{type(self).__module__}.{type(self).__name__}: ")[2])


class SampleError(_LineError):
    """A single sample cannot be used."""


class WorkerError(_LineError):
    """A loader's worker has ended, or cannot hand over what it has read."""


def quoted(error: BaseException | str, limit: int = 200) -> str:
    """Words that may quote a hostile file: short, on one line, without what steers a terminal."""
    text = " ".join(str(error).split())[:limit]
    shown = "".join(letter for letter in text if letter.isprintable())
    return shown or type(error).__name__


def listed(items: Sequence[object], most: int = 5, separator: str = ", ") -> str:
    """The first few, and how many more: "a, b and 7 more"."""
    more = len(items) - most
    return separator.join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")
