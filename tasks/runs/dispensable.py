"""Files that a test writes into a run's folder, and can do without.

A run may be read-only, as a colleague's is, or its disk full: the test's line goes to another
folder, and must not be lost with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["dispensable"]


@contextmanager
def dispensable(what: Any) -> Iterator[None]:
    """Around the writing of `what`, a file's path: say why it is missing, and go on."""
    try:
        yield
    except OSError as error:
        rank_zero_warn(
            f"{what} is not written ({error.strerror or error}). The test goes on: what it "
            "measures is added to the results."
        )
