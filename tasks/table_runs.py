"""The runs of a table: each row with each seed, its commands, its places, and where it stands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from data.locks import Lock
from tasks.results import scan
from tasks.run_directory import config_hash
from tasks.table_records import stands
from tasks.table_spec import Row, Table

__all__ = ["Places", "Run", "State", "finished_runs", "row_states", "runs_of"]

State = Literal["done", "running", "failed", "partial", "not run", "refused"]
# (name, hash, seed) of result lines.
Done = set[tuple[str, str, int]]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are written, and what every run is given.

    Args:
        runs: folder of run directories, locks and logs.
        results: folder of result lines.
        configs: YAML files merged after the row's.
        options: of the task's command line, given last.
    """

    runs: Path = Path("runs")
    results: Path = Path("results")
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
        configs = (*self.table.configs, *self.row.configs, *self.places.configs)
        shared = [f"--config={config}" for config in configs]
        shared += [f"--{key}={_yaml(value)}" for key, value in self.row.options.items()]
        shared += [f"--seed_everything={self.seed}", f"--name={self.table.run_name(self.row)}"]
        shared += [f"--runs={self.places.runs}", f"--results={self.places.results}"]
        return [*shared, *self.places.options]

    @property
    def trained(self) -> Run:
        """The run that trains the network: this one, or that of the row it names."""
        return replace(self, row=self.table.trained(self.row))

    def commands(self) -> list[list[str]]:
        task = [sys.executable, "-m", f"tasks.{self.table.task}"]
        checkpoint: list[str] = []
        if self.row.trained_as:
            checkpoint = [f"--ckpt_path={self.trained.directory / 'checkpoints' / 'last.ckpt'}"]
        fit = [*task, "fit", *self.trained.arguments()]
        test = [*task, "test", *self.arguments(), *checkpoint]
        return [test] if self.row.untrained else [fit, test]

    def recipe(self) -> dict[str, Any] | None:
        """What it asks for; None where its options are refused."""
        arguments = (a for a in self.arguments() if not a.startswith("--seed_everything="))
        recipe = _recipe(self.table.task, ("fit", *arguments))
        return None if recipe is None else {**recipe, "seed_everything": self.seed}

    def digest(self) -> str | None:
        """The run's hash, as its result line has it; None where its options are refused."""
        recipe = self.recipe()
        return None if recipe is None else config_hash(recipe)

    @property
    def folder(self) -> Path:
        """Of the run directories of the row."""
        return self.places.runs / self.table.task / self.table.run_name(self.row)

    @property
    def directory(self) -> Path:
        """Where it trains; the same as the command line's choice."""
        return self.folder / f"seed{self.seed}-{self.digest()}"

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

    def result_in(self, done: Done) -> bool:
        """Whether `done`, (name, hash, seed) of result lines, holds its own."""
        return (self.table.run_name(self.row), str(self.digest()), self.seed) in done

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

    def state(self, done: Done) -> State:
        """Where the run stands; `done` is of :func:`finished_runs`."""
        if self.digest() is None:
            return "refused"
        if self.result_in(done):
            return "done"
        if self.held():
            return "running"
        if self.failure.exists():
            return "failed"
        return "partial" if self.directory.exists() else "not run"


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with Lock(path).acquire(timeout=0):
            return False
    except Timeout:
        return True


@cache
def _recipe(task: str, arguments: tuple[str, ...]) -> dict[str, Any] | None:
    """One parse serves all seeds of a row: it takes a good part of a second."""
    from tasks.cli import expected_recipe

    return expected_recipe(task, list(arguments))


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


def finished_runs(results: Path, table: Table) -> Done:
    """(name, hash, seed) of every result line that may stand in the table."""
    rows = {table.run_name(row): row for row in table.rows}
    records = (record for _, record, fault in scan(results / f"{table.task}.jsonl") if not fault)
    return {
        (r["name"], str(r.get("config_hash")), r["seed"])
        for r in records
        if r and r["name"] in rows and stands(r, table, rows[r["name"]])
    }


def row_states(runs: Sequence[Run]) -> Iterator[tuple[Run, State]]:
    """The state of each run."""
    done: dict[tuple[Path, str], Done] = {}
    for run in runs:
        place = (run.places.results, run.table.key)
        if place not in done:
            done[place] = finished_runs(run.places.results, run.table)
        yield run, run.state(done[place])
