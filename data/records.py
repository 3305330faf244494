"""The small JSON files that say how a folder of data was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data.errors import quoted

__all__ = ["read_record", "write_record"]

_LARGEST = 1 << 20  # bytes; a real one has some hundred


def read_record(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is none.

    Raises:
        ValueError: it is no record.
    """
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected {path} to say how its folder was made, but it is damaged ({quoted(error)}): "
            "delete the folder and make or fetch it again."
        ) from error
    return content


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write it whole or not at all; to be called by one process at a time."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
