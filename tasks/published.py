"""Whose results are whose: published ones in results/, which git tracks, and a user's own.

No run writes into results/: :func:`publish` alone adds to it, when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.results import append_result, scan

__all__ = ["OWN", "PUBLISHED", "check_own", "publish"]

PUBLISHED = Path(__file__).resolve().parents[1] / "results"
# Below the folder of runs, which git ignores.
OWN = Path("runs") / "results"


def check_own(folder: Path) -> None:
    """Refuse the published results as the place of a run's.

    Raises:
        ValueError: it is that folder, or below it.
    """
    place = folder.expanduser().resolve()
    if PUBLISHED in (place, *place.parents):
        raise ValueError(
            f"Expected `--results` to be a folder of your own, such as {OWN}, but got {folder}, "
            "which holds the published results: `python reproduce.py TABLE --publish` adds to it."
        )


def publish(task: str, records: Iterable[dict[str, Any]], folder: Path = PUBLISHED) -> int:
    """Copy result lines that are not there yet into the task's file in `folder`.

    Returns:
        How many were.
    """
    path = folder / f"{task}.jsonl"
    there = {_text(record) for _, record, _ in scan(path) if record is not None}
    new = [record for record in records if _text(record) not in there]
    for record in new:
        append_result(path, record)
    return len(new)


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)
