"""Which result lines stand in which table, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data.files import json_text
from tasks.engine.results import HELD_OUT, PRETRAINED, is_final, last_epoch_of, scan
from tasks.runs.recipe import CHECKSUM, MODEL_FILES, same_data
from tasks.tables.spec import Row, Table

__all__ = [
    "Asked",
    "Runs",
    "dataset_of",
    "gather",
    "same_measure",
    "same_recipe",
    "standing",
    "stands",
]

Record = dict[str, Any]
# The records of each row, by the row's key.
Runs = dict[str, list[Record]]
# The recipe that a row is asked for, without places, and the data that are given, each None where
# there are none; see :func:`tasks.runs.recipe.same_data`.
Asked = Callable[[Row], tuple[Any, Any]]


class Line(NamedTuple):
    """A record, where it stands in its file, and the row that it is of."""

    number: int
    record: Record
    row: Row


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
    """Whether the values of two lines are of one definition, of which a task may have had two."""
    return bool(one.get("mean_over") == other.get("mean_over"))


def stands(record: Record, table: Table, row: Row) -> bool:
    """Whether a line of the row's name may stand in it.

    A row that tests what another trains takes lines whose network was trained by that other row's
    recipe: nothing may differ but what the two rows say.
    """
    trained = table.trained(row)
    if trained is row:
        chosen = HELD_OUT if table.checkpoint == "best" else "last epoch"
        selection = PRETRAINED if row.untrained else chosen
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


def standing(table: Table, results: Path) -> tuple[list[Line], list[str]]:
    """The lines of a folder that may stand in the table, and a note on each that cannot be read."""
    path = results / f"{table.task}.jsonl"
    rows = {table.run_name(row): row for row in table.rows}
    found, notes = [], []
    for number, record, fault in scan(path):
        row = None if record is None else rows.get(str(record.get("name")))
        if record is None or (row is not None and fault):
            notes.append(f"{path}, line {number} is passed over, {fault}.")
        elif row is not None and stands(record, table, row):
            found.append(Line(number, record, row))
    return found, notes


def gather(
    table: Table, results: Path, asked: Asked | None = None
) -> tuple[dict[str, Runs], list[str]]:
    """Records by data set and row: one for each seed, of one recipe.

    Also a sentence on each kind of line that was left out.

    Args:
        table: whose lines they are.
        results: their folder.
        asked: the recipe that a row is asked for now and the data that are given, which are wanted
            only where there are lines of several: those of this one stand. Without it, or without
            such lines, those of the newest do. Of a seed, the newest line stands.
    """
    lines, notes = standing(table, results)
    found: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        places = found.setdefault(dataset_of(line.record, table), {})
        places.setdefault(line.row.key, []).append(line)
    left = _Left()
    chosen = {
        dataset: {key: left.choose(own, asked) for key, own in rows.items()}
        for dataset, rows in found.items()
    }
    return chosen, [*notes, *left.notes(results / f"{table.task}.jsonl")]


class _Left:
    """Lines that are left out beside newer ones."""

    def __init__(self) -> None:
        self.older: list[int] = []
        self.twice: list[int] = []
        self.differ: list[int] = []

    def choose(self, lines: list[Line], asked: Asked | None) -> list[Record]:
        """One record for each seed."""
        newest = lines[-1].record
        if asked and not all(_alike(line.record, newest) for line in lines):
            recipe, given = asked(lines[-1].row)
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
    # Of the corrupted images too, where both say it.
    corrupted = {r[key] for r in (one, other) if (key := "corrupted_fingerprint") in r}
    same = one["fingerprint"] == other["fingerprint"] and len(corrupted) < 2
    return bool(same) and same_recipe(one["recipe"], other["recipe"])


def _lines(numbers: list[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)))
    return f"line {shown} is" if len(numbers) == 1 else f"lines {shown} are"
