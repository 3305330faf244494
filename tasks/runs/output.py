"""Output that nobody reads any more ends no run.

After Ctrl-C in ``fit 2>&1 | tee log`` the reader has gone too, and a terminal may close: whatever
prints then raises, in a signal's handler or a progress bar, before the run has saved its state.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

__all__ = ["outlive_readers"]

GONE = {errno.EPIPE, errno.EIO}  # of a pipe, of a terminal


class _Unread(io.FileIO):
    """Writes to nowhere from the moment that the reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # For others that write there as well.
        os.close(nowhere)
        return len(memoryview(data).cast("B"))


def outlive_readers() -> None:
    """Let this process's standard output and error, unless they were redirected within it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            outliving = io.TextIOWrapper(
                io.BufferedWriter(_Unread(stream.fileno(), "w", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, outliving)
