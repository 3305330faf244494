"""Result lines: one of JSON for each finished run, from which every table is made.

A user's own go to runs/results/; the published ones, in results/, no run writes to.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data.files import json_text
from data.locks import exclusive
from tasks import ROOT

__all__ = [
    "FORMAT",
    "HELD_OUT",
    "OWN",
    "PRETRAINED",
    "PUBLISHED",
    "append_result",
    "check_own",
    "check_writable",
    "fault_of",
    "is_final",
    "last_epoch_of",
    "publish",
    "read_results",
    "scan",
]

Record = dict[str, Any]


# How a record says that its weights were given, and nothing was trained.
PRETRAINED = "pretrained weights"


# Of a finished run's checkpoint `best`, which training data that were held out have chosen.
HELD_OUT = "best epoch on held-out data"


# Of a line; raised when a line's fields change their meaning. Lines without the field are of 1.
FORMAT = 1


# What a table needs of a line.
FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "seed": int,
    "dataset": str,
    "fingerprint": str,
    "n_train": int,
    "n_test": int,
    "selection": str,
    "recipe": dict,
    "summary": dict,
}


# What only some lines have, and a table or the page shows where they do.
OPTIONAL: Mapping[str, type | tuple[type, ...]] = {
    "breakdown": dict,
    "checkpoint": str,
    "commit": (str, type(None)),
    "conditions": list,
    "corruptions": list,
    "finished": (dict, type(None)),
    "labelled_draw": str,
    "n_labelled": int,
    "time": str,
    "trained": list,
    "unit": str,
}


# What has no value says so by null, in older lines by NaN. Here, tables take it for absent.
MEASURED = ("summary", "breakdown", "history")


def check_writable(path: Path) -> None:
    """Make sure, before anything is measured, that a line can be added to `path`.

    What adding it needs is tried, a lock too; nothing is left behind.

    Raises:
        ValueError: it cannot.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    fault = ""
    if path.is_dir():
        fault = "it is a folder"
    elif not folder.is_dir():
        fault = f"{folder} is no folder"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        fault = f"{path if path.exists() else folder} may not be written to"
    else:
        try:
            _try_lock(path, folder)
        except OSError as error:
            fault = f"{folder} cannot hold a file that is locked ({error.strerror or error})"
    if fault:
        raise ValueError(
            f"Expected to add a line to {path}, but {fault}: name another folder by `--results`."
        )


def _try_lock(path: Path, folder: Path) -> None:
    if path.exists():
        with path.open("ab") as file, exclusive(file, path):
            return
    with tempfile.NamedTemporaryFile(dir=folder) as trial, exclusive(trial, Path(trial.name)):
        return


def append_result(path: Path, record: Record) -> None:
    """Add one line, whole or not at all, also when several processes write at once.

    Raises:
        ValueError: it cannot be written; the message holds the line, so that it is not lost.
    """
    line = json_text(record, sort_keys=True) + "\n"
    try:
        _append(path, line)
    except OSError as error:
        raise ValueError(
            f"Expected room for a line in {path}, but got: {error.strerror or error}. Make room, "
            f"and add it by hand: {line}"
        ) from error


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file, exclusive(file, path):
        # A line that a killed process left half-written must not swallow this one.
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def scan(path: Path) -> Iterator[tuple[int, Record | None, str]]:
    """Every line that is not empty: its number, its record, and what is wrong with the line.

    The record is None where the line is no JSON object, as one that was only written in part. No
    lines come from a file that is not there.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _parsed(line)
        except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
            yield number, None, f"damaged: {error}"
            continue
        if not isinstance(record, dict):
            yield number, None, f"damaged: expected an object, but got {type(record).__name__}"
            continue
        yield number, record, fault_of(record)


def _parsed(line: bytes) -> Any:
    constants = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
    record = json.loads(line, parse_constant=constants.get)
    if isinstance(record, dict):
        record |= {key: _valued(record[key]) for key in MEASURED if key in record}
        if isinstance(conditions := record.get("conditions"), list):
            record["conditions"] = [c for c in conditions if not _is_empty(c)]
    return record


def _is_empty(condition: Any) -> bool:
    """Whether no sample of a condition was tested."""
    return isinstance(condition, dict) and condition.get("error", 0) is None


def _valued(part: Any) -> Any:
    """`part` without the entries that have no value."""
    if isinstance(part, dict):
        return {key: _valued(value) for key, value in part.items() if value is not None}
    return [_valued(value) for value in part] if isinstance(part, list) else part


def fault_of(record: Record) -> str:
    """Why no table can be made from a record, as of one of another version; "" where one can."""
    form = record.get("format", 1)
    if form != FORMAT:
        return f"of another version: its format is {form!r}, this version reads {FORMAT}"
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]
    if wrong:
        return f"of another version: {', '.join(wrong)} missing or of another type"
    wrong = [k for k, kind in OPTIONAL.items() if k in record and not isinstance(record[k], kind)]
    wrong = wrong or [name for name, right in _parts(record).items() if not right]
    if wrong:
        return f"of another version: {', '.join(wrong)} of another type"
    bad = [k for k, v in record["summary"].items() if not _is_number(v)]
    return f"of another version: {bad[0]} in its summary is no number" if bad else ""


def _parts(record: Record) -> dict[str, bool]:
    """Whether what stands within a record's fields is what the tables read there."""
    finished = record.get("finished") or {}
    return {
        "recipe": isinstance(record["recipe"].get("trainer", {}), dict),
        "breakdown": all(map(_is_number, record.get("breakdown", {}).values())),
        "conditions": all(map(_is_condition, record.get("conditions", []))),
        "corruptions": all(isinstance(name, str) for name in record.get("corruptions", [])),
        "finished": _is_number(finished.get("seconds", 0)),
        "trained": all(map(_is_environment, record.get("trained", []))),
        "labelled_draw": ("n_labelled" in record) == ("labelled_draw" in record),
    }


def _is_condition(value: Any) -> bool:
    named = isinstance(value, dict) and isinstance(value.get("corruption"), str)
    return named and _is_number(value.get("error"))


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("commit"), str | None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def read_results(path: Path) -> Iterator[Record]:
    """Every readable line of a file; damaged ones are named in a warning and passed over."""
    for number, record, fault in scan(path):
        if record is None:
            warnings.warn(f"{path}, line {number} is passed over: {fault}", stacklevel=2)
        else:
            yield record


def last_epoch_of(name: str) -> str:
    """The `selection` of a test of what the finished run `name`, of another recipe, has trained."""
    return f"last epoch of {name}"


def is_final(record: Record, metric: str, *, selection: str = "last epoch") -> bool:
    """Whether a line may stand in a table whose main value is `metric`.

    The test is of all test data, and of a network of that `selection`: by default of the last epoch
    of a run that was trained to its end.
    """
    whole = metric in record.get("summary", {}) and "limited" not in record
    return record.get("selection") == selection and whole


PUBLISHED = ROOT / "results"


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
        records: which, as :func:`scan` reads them.
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
