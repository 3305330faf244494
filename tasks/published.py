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


def publish(
    task: str, records: Iterable[dict[str, Any]], *, source: Path, folder: Path = PUBLISHED
) -> int:
    """Copy result lines that are not there yet into the task's file in `folder`, as they stand.

    Args:
        task: whose.
        records: which, as :func:`tasks.results.scan` reads them.
        source: folder of the lines.
        folder: to copy to.

    Returns:
        How many were not there.
    """
    path = folder / f"{task}.jsonl"
    there = {_text(record) for _, record, _ in scan(path) if record is not None}
    wanted = {_text(record) for record in records} - there
    written = (source / f"{task}.jsonl").read_bytes().split(b"\n") if wanted else []
    for number, record, _ in scan(source / f"{task}.jsonl"):
        if record is not None and _text(record) in wanted:
            append_result(path, json.loads(written[number - 1]))
            wanted.remove(_text(record))
    return len({_text(record) for _, record, _ in scan(path) if record is not None} - there)


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)
