"""JSON that any parser reads, and the small files of it that say how a folder of data was made."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import quoted

__all__ = ["json_text", "read_record", "write_record"]

_LARGEST = 1 << 20  # bytes; a real one has some hundred


def json_text(
    value: Any,
    *,
    sort_keys: bool = False,
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """`value` as JSON, which has no NaN and no infinity.

    NaN, where nothing was measured, becomes null; infinity, as an option may be, the string "inf".
    The other arguments are those of :func:`json.dumps`.
    """
    options: dict[str, Any] = {"sort_keys": sort_keys, "indent": indent, "default": default}
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


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
        file.write(json_text(content) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
