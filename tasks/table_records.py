"""Which result lines stand in which table, and why the others do not."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data.corruptions import CORRUPTIONS
from data.records import json_text
from tasks.results import PRETRAINED, is_final, last_epoch_of, scan
from tasks.run_directory import CHECKSUM, MODEL_FILES, same_data
from tasks.table_spec import Row, Table

__all__ = [
    "Asked",
    "Runs",
    "breakdown_of",
    "collect",
    "dataset_of",
    "gather",
    "independent_parts",
    "same_measure",
    "same_recipe",
    "stands",
]

Record = dict[str, Any]
# The records of each row, by the row's key.
Runs = dict[str, list[Record]]
# The recipe that a row is asked for, without places, and the data that are given, each None where
# there are none; see :func:`tasks.run_directory.same_data`.
Asked = Callable[[Row], tuple[Any, Any]]


class Line(NamedTuple):
    """A record and where it stands in its file."""

    number: int
    record: Record


def same_recipe(one: Any, other: Any) -> bool:
    """Whether two recipes are one but for their seeds."""
    return _canonical(one, other) == _canonical(other, one)


def _canonical(recipe: Any, beside: Any) -> str:
    return json_text(_without_seeds(_named_as(recipe, beside)), sort_keys=True, default=str)


def _named_as(recipe: Any, beside: Any) -> Any:
    """Files of weights by name alone where `beside`, of an older line, has no checksums of them."""
    if not (isinstance(recipe, dict) and isinstance(beside, dict) and "model" in recipe):
        return recipe
    older = beside.get("model", {})
    model = {
        k: v.partition(CHECKSUM)[0]
        if k in MODEL_FILES and isinstance(v, str) and CHECKSUM not in str(older.get(k, CHECKSUM))
        else v
        for k, v in recipe["model"].items()
    }
    return {**recipe, "model": model}


def _without_seeds(value: Any) -> Any:
    """The same nested options without every seed, so that runs of one recipe compare equal."""
    if isinstance(value, dict):
        seeds = ("seed", "seed_everything")
        return {k: _without_seeds(v) for k, v in value.items() if k not in seeds}
    return value


def same_measure(one: Record, other: Record) -> bool:
    """Whether the values of two lines are of one definition, of which segmentation has had two."""
    return bool(one.get("mean_over") == other.get("mean_over"))


def stands(record: Record, table: Table, row: Row) -> bool:
    """Whether a line of the row's name may stand in it.

    A row that tests what another trains takes lines whose network was trained by that other row's
    recipe: nothing may differ but what the two rows say.
    """
    trained = table.trained(row)
    if trained is row:
        selection = PRETRAINED if row.untrained else "last epoch"
        return is_final(record, table.metric, selection=selection)
    told = {
        _plain(option)
        for option in {*row.options, *trained.options}
        if row.options.get(option) != trained.options.get(option)
    }
    known = all(
        any(f"{_plain(changed)}.".startswith(f"{option}.") for option in told)
        for changed in record.get("changed", [])
    )
    selection = last_epoch_of(table.run_name(trained))
    return known and is_final(record, table.metric, selection=selection)


def _plain(option: str) -> str:
    """An option's short name: `data.crop` is `data.init_args.crop`."""
    return option.replace(".init_args.", ".")


def dataset_of(record: Record, table: Table) -> str:
    """The true name of the data that a record's values in this table belong to.

    Published corruptions and those of our own generator are different sets, although the images
    without corruption are the same.
    """
    name = str(record["dataset"])
    made = str(record.get("corrupted", "")).startswith("data.") or record.get(
        "corruptions_made_with"
    )
    tested = record.get("corruptions")
    return f"{name}, corruptions made here" if table.paper and made and tested else name


def collect(table: Table, results: Path, asked: Asked | None = None) -> dict[str, Runs]:
    """Records by data set and row: one for each seed, of one recipe; see :func:`gather`."""
    return gather(table, results, asked)[0]


def gather(
    table: Table, results: Path, asked: Asked | None = None
) -> tuple[dict[str, Runs], list[str]]:
    """See :func:`collect`; also a sentence on each kind of line that was left out.

    Args:
        table: whose lines they are.
        results: their folder.
        asked: the recipe that a row is asked for now and the data that are given, which are wanted
            only where there are lines of several: those of this one stand. Without it, or without
            such lines, those of the newest do. Of a seed, the newest line stands.
    """
    path = results / f"{table.task}.jsonl"
    rows_by_name = {table.run_name(row): row for row in table.rows}
    found: dict[str, dict[str, list[Line]]] = {}
    notes = []
    for number, record, fault in scan(path):
        row = None if record is None else rows_by_name.get(str(record.get("name")))
        if record is None or (row is not None and fault):
            notes.append(f"{path}, line {number} is passed over, {fault}.")
        elif row is not None and stands(record, table, row):
            places = found.setdefault(dataset_of(record, table), {})
            places.setdefault(row.key, []).append(Line(number, record))
    chosen: dict[str, Runs] = {}
    left = _Left()
    rows_by_key = {row.key: row for row in table.rows}
    for dataset, rows in found.items():
        chosen[dataset] = {
            key: left.choose(lines, None if asked is None else partial(asked, rows_by_key[key]))
            for key, lines in rows.items()
        }
    return chosen, [*notes, *left.notes(path)]


class _Left:
    """Lines that are left out beside newer ones."""

    def __init__(self) -> None:
        self.older: list[int] = []
        self.twice: list[int] = []
        self.differ: list[int] = []

    def choose(self, lines: list[Line], asked: Callable[[], Any] | None) -> list[Record]:
        """One record for each seed."""
        newest = lines[-1].record
        if asked and not all(_alike(line.record, newest) for line in lines):
            recipe, given = asked()
            own = [x.record for x in lines if same_recipe(x.record["recipe"], recipe)]
            wanted = [record for record in own if same_data(record, given)] or own
            newest = wanted[-1] if wanted else newest
        kept: dict[int, Line] = {}
        for line in lines:
            record = line.record
            if not _alike(record, newest) or not same_measure(record, newest):
                self.older.append(line.number)
                continue
            before = kept.get(record["seed"])
            if before is not None:
                self.twice.append(before.number)
                if before.record["summary"] != record["summary"]:
                    self.differ.append(before.number)
            kept[record["seed"]] = line
        return [kept[seed].record for seed in sorted(kept)]

    def notes(self, path: Path) -> list[str]:
        found = []
        if self.older:
            found.append(
                f"{path}: {_lines(self.older)} of another recipe, other files of the set or "
                "another definition of the values: the one asked for, or else the newest, of each "
                "row stands in the table."
            )
        if self.twice:
            differ = len(self.differ)
            found.append(
                f"{path}: {_lines(self.twice)} of a run that has a newer line, which counts; "
                + (f"the values of {differ} differ from it." if differ else "the values are equal.")
            )
        return found


def _alike(one: Record, other: Record) -> bool:
    """Whether two lines are of one recipe and of the same files."""
    same = one["fingerprint"] == other["fingerprint"]
    return bool(same) and same_recipe(one["recipe"], other["recipe"])


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)))
    return f"line {shown} is" if len(numbers) == 1 else f"lines {shown} are"


def breakdown_of(record: Record) -> dict[str, float]:
    """A record's main value by its parts: mean error of each corruption, or what the task names."""
    if "breakdown" in record:
        return dict(record["breakdown"])
    errors: dict[str, list[float]] = {}
    for condition in record.get("conditions", []):
        errors.setdefault(condition["corruption"], []).append(condition["error"])
    return {name: statistics.mean(values) for name, values in errors.items()}


def independent_parts(row: Row) -> dict[str, float]:
    """The independent reproduction's value for each of the 15 corruptions, in percent."""
    values = row.independent_per_corruption
    return {} if values is None else dict(zip(CORRUPTIONS, values, strict=True))
