"""Errors that the data sets share."""

from __future__ import annotations

__all__ = ["DataNotFoundError"]


class DataNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for.

    The message is one plain text: the root that was searched, the layout expected below it, the
    exact command that fetches it, and how to try the task on generated data instead.
    """
