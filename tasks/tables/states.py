"""The runs of a table: each row with each seed, its commands, its places, and where it stands.

Where a run stands is said here alone, for the runner, the list and the tables: it is done where a
line that may stand in the table has its name, its seed, the recipe that is asked for now, and not
other data than are given now.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import Timeout

from data.locks import Lock
from tasks.engine.results import OWN, PUBLISHED
from tasks.runs.directory import RunDirectory
from tasks.runs.recipe import digests_of, portable, same_data
from tasks.tables.lines import same_recipe, standing
from tasks.tables.spec import Row, Table

__all__ = ["Measured", "Places", "Run", "State", "measured", "row_states", "runs_of"]

from tasks import ROOT

Record = dict[str, Any]
State = Literal["done", "running", "failed", "partial", "not run", "refused"]
# Result lines that may stand in a table, by name and seed.
Measured = dict[tuple[str, int], list[Record]]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are written, and what every run is given.

    Args:
        runs: folder of run directories, locks and logs.
        results: folder of the user's own result lines.
        published: folder of the published ones, which no run writes to.
        counts_published: whether what is published counts as done.
        root: folder of the data, for the options that name one.
        configs: YAML files merged after the row's.
        options: of the task's command line, given last.
    """

    runs: Path = Path("runs")
    results: Path = OWN
    published: Path = PUBLISHED
    counts_published: bool = False
    root: str | None = None
    configs: Sequence[str] = ()
    options: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row with one seed."""

    table: Table
    row: Row
    seed: int
    places: Places = field(default_factory=Places)

    @property
    def title(self) -> str:
        return f"{self.table.run_name(self.row)}, seed {self.seed}"

    def arguments(self) -> list[str]:
        """What `fit` and `test` share."""
        own = (ROOT / config for config in (*self.table.configs, *self.row.configs))
        configs = (*own, *self.places.configs)
        shared = [f"--config={config}" for config in configs]
        shared += [f"--{key}={_yaml(value)}" for key, value in self.row.options.items()]
        shared += [f"--seed_everything={self.seed}", f"--name={self.table.run_name(self.row)}"]
        shared += [f"--runs={self.places.runs}", f"--results={self.places.results}"]
        if self.places.root:
            shared += [f"--data.{name}={self.places.root}" for name in _roots(self.table)]
        return [*shared, *self.places.options]

    @property
    def trained(self) -> Run:
        """The run that trains the network: this one, or that of the row it names."""
        return replace(self, row=self.table.trained(self.row))

    def commands(self) -> list[list[str]]:
        task = [sys.executable, "-m", f"tasks.{self.table.task}"]
        checkpoint: list[str] = []
        if self.row.trained_as or self.table.checkpoint == "best":
            name = f"{self.table.checkpoint}.ckpt"
            checkpoint = [f"--ckpt_path={self.trained.directory / 'checkpoints' / name}"]
        fit = [*task, "fit", *self.trained.arguments()]
        test = [*task, "test", *self.arguments(), *checkpoint]
        return [test] if self.row.untrained else [fit, test]

    def recipe(self) -> Record | None:
        """What it asks for; None where its options are refused."""
        parsed = self._parsed()
        return None if parsed is None else {**parsed[0], "seed_everything": self.seed}

    def _parsed(self) -> tuple[Record, Record] | None:
        arguments = (a for a in self.arguments() if not a.startswith("--seed_everything="))
        return _parsed(self.table.task, ("fit", *arguments))

    def given_data(self) -> Record | None:
        """What the data say of themselves that are given now; None where there are none."""
        parsed = self._parsed()
        if parsed is None:
            return None
        named = {"data": parsed[1]["data"], "model": {"network": parsed[1]["model"]["network"]}}
        return _given(self.table.task, json.dumps(named, sort_keys=True, default=str))

    def digests(self) -> Sequence[str]:
        """The run's hashes, that of its result line first; none where its options are refused."""
        recipe = self.recipe()
        return () if recipe is None else digests_of(recipe)

    def digest(self) -> str | None:
        """Its hash, as its result line has it."""
        return next(iter(self.digests()), None)

    @property
    def folder(self) -> Path:
        """Of the run directories of the row."""
        return self.places.runs / self.table.task / self.table.run_name(self.row)

    @property
    def directory(self) -> Path:
        """Where it trains; the same as the command line's choice."""
        digest, *older = self.digests() or ("refused",)
        return RunDirectory(self.folder, seed=self.seed, digest=digest, older=older).path

    @property
    def log(self) -> Path:
        name = self.title.replace(", ", "-").replace(" ", "")
        return self.places.runs / "logs" / f"{name}.log"

    @property
    def _lock_path(self) -> Path:
        name = f"{self.trained.title}.lock".replace("/", "_").replace(", ", "-").replace(" ", "")
        return self.places.runs / "locks" / name

    def lock(self) -> Lock:
        """Of the training: rows that test the same network have the same."""
        return Lock(self._lock_path)

    def lines(self, found: Measured) -> list[Record]:
        """The lines of its name and seed, and of the recipe that is asked for."""
        own = found.get((self.table.run_name(self.row), self.seed), [])
        recipe = self.recipe() if own else None
        if recipe is None:
            return []
        return [line for line in own if same_recipe(line["recipe"], portable(recipe))]

    def result(self, found: Measured) -> Record | None:
        """Its newest line on the data that are given now; on any where none are there."""
        lines = self.lines(found)
        given = self.given_data() if lines else None
        fitting = [line for line in lines if same_data(line, given)]
        return fitting[-1] if fitting else None

    def held(self) -> bool:
        """Whether another process trains or tests it."""
        return _is_held(self._lock_path) or self.abandoned()

    def abandoned(self) -> bool:
        """Whether a process trains it that no runner holds: one whose runner was killed, say."""
        return _is_held(self._training_lock)

    @property
    def _training_lock(self) -> Path:
        return self.trained.directory / "training.lock"

    def way_out(self) -> str:
        """See :meth:`data.locks.Lock.way_out`; of whichever of its locks is held."""
        return self.lock().way_out() or Lock(self._training_lock).way_out()

    def touched(self) -> bool:
        """Whether it may have been begun: False is sure, and needs no command line parsed."""
        left = self.trained.folder.exists() or self.failure.exists()
        return left or _is_held(self._lock_path)

    @property
    def failure(self) -> Path:
        """A file that is there while the newest attempt has failed."""
        return self.log.with_suffix(".failed")

    def state(self, found: Measured) -> State:
        """Where the run stands; `found` is of :func:`measured`."""
        known = (self.table.run_name(self.row), self.seed) in found or self.touched()
        given = self.places.root or self.places.configs or self.places.options
        if not known and not given:
            return "not run"  # Without parsing a command line that is the table's own.
        if self.recipe() is None:
            return "refused"
        if self.result(found) is not None:
            return "done"
        if self.held():
            return "running"
        if self.failure.exists():
            return "failed"
        return "partial" if self.trained.directory.exists() else "not run"


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with Lock(path).acquire(timeout=0):
            return False
    except PermissionError:
        return False  # Of another user, whose run is only looked at.
    except Timeout:
        return True


@cache
def _parsed(task: str, arguments: tuple[str, ...]) -> tuple[Record, Record] | None:
    """One parse serves all seeds of a row: it takes a good part of a second."""
    from tasks.engine.cli import expected

    return expected(task, list(arguments))


@cache
def _given(task: str, config: str) -> Record | None:
    """Data are read once, however many rows train on them; what is damaged says its task's run."""
    from tasks.engine.cli import expected_data

    try:
        return expected_data(task, {"seed_everything": 0, **json.loads(config)})
    except (ValueError, OSError):
        return None


@cache
def _roots_of(config: str) -> tuple[str, ...]:
    """The data module's options that take the folder of its data."""
    path = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))["data"]["class_path"]
    return tuple(getattr(pkgutil.resolve_name(path), "ROOTS", ("root",)))


def _roots(table: Table) -> tuple[str, ...]:
    return _roots_of(table.configs[0]) if table.configs else ("root",)


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def runs_of(table: Table, rows: Iterable[Row], seeds: int, places: Places) -> list[Run]:
    """Every row with seeds 0 to `seeds` - 1; all rows of a seed before the next seed.

    What is not trained depends on no seed, and has the first alone.
    """
    rows = list(rows)
    return [
        Run(table=table, row=row, seed=seed, places=places)
        for seed in range(seeds)
        for row in rows
        if not (row.untrained and seed)
    ]


def measured(places: Places, table: Table) -> Measured:
    """The lines that may stand in the table: the user's own, and published ones if they count."""
    published = [places.published] if places.counts_published else []
    return lines_in(table, *published, places.results)


def lines_in(table: Table, *folders: Path) -> Measured:
    """The lines that may stand in the table; those of a later folder are newer."""
    found: Measured = {}
    for line in (line for folder in folders for line in standing(table, folder)[0]):
        found.setdefault((line.record["name"], line.record["seed"]), []).append(line.record)
    return found


def row_states(runs: Sequence[Run]) -> Iterator[tuple[Run, State]]:
    """The state of each run."""
    found: dict[tuple[Path, str], Measured] = {}
    for run in runs:
        place = (run.places.results, run.table.key)
        if place not in found:
            found[place] = measured(run.places, run.table)
        yield run, run.state(found[place])
