"""Runs the rows of a table: each is a `fit` and a `test` of a task's ordinary command line.

Finished runs are known by their result line and are not run again; two runners never train the same
run at once (a lock that the system frees when its holder dies); a run that fails is tried again,
which resumes it, and is then reported with its log.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tasks.results import is_final, read_results
from tasks.run_directory import config_hash
from tasks.table_spec import Row, Table

__all__ = ["Places", "Run", "State", "row_states", "run_all", "runs_of", "slurm_submit"]

ROOT = Path(__file__).resolve().parents[1]
State = Literal["done", "running", "failed", "partial", "not run", "refused"]
INTERRUPTED = 130


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

    def digest(self) -> str | None:
        """The run's hash, as its result line has it; None where its options are refused."""
        arguments = (a for a in self.arguments() if not a.startswith("--seed_everything="))
        recipe = _recipe(self.table.task, ("fit", *arguments))
        return None if recipe is None else config_hash({**recipe, "seed_everything": self.seed})

    @property
    def directory(self) -> Path:
        """Where it trains; the same as the command line's choice."""
        base = self.places.runs / self.table.task / self.table.run_name(self.row)
        return base / f"seed{self.seed}-{self.digest()}"

    @property
    def log(self) -> Path:
        name = self.title.replace(", ", "-").replace(" ", "")
        return self.places.runs / "logs" / f"{name}.log"

    def lock(self) -> FileLock:
        """Of the training: rows that test the same network have the same."""
        name = f"{self.trained.title}.lock".replace("/", "_").replace(", ", "-").replace(" ", "")
        path = self.places.runs / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    @property
    def failure(self) -> Path:
        """A file that is there while the newest attempt has failed."""
        return self.log.with_suffix(".failed")

    def state(self, done: set[tuple[str, int]]) -> State:
        """Where the run stands; `done` holds (hash, seed) of the result lines."""
        digest = self.digest()
        if digest is None:
            return "refused"
        if (digest, self.seed) in done:
            return "done"
        try:
            with self.lock().acquire(timeout=0):
                pass
        except Timeout:
            return "running"
        if self.failure.exists():
            return "failed"
        return "partial" if self.directory.exists() else "not run"


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


def finished_runs(run: Run) -> set[tuple[str, int]]:
    """(hash, seed) of every result line that may stand in the table in the place of such a run."""
    table, untrained = run.table, run.row.untrained
    records = read_results(run.places.results / f"{table.task}.jsonl")
    final = (r for r in records if is_final(r, table.metric, untrained=untrained))
    return {(str(r.get("config_hash")), int(r.get("seed", -1))) for r in final}


def row_states(runs: Sequence[Run]) -> Iterator[tuple[Run, State]]:
    """The state of each run."""
    done: dict[tuple[Path, str, bool], set[tuple[str, int]]] = {}
    for run in runs:
        place = (run.places.results, run.table.key, run.row.untrained)
        if place not in done:
            done[place] = finished_runs(run)
        yield run, run.state(done[place])


def run_all(runs: Sequence[Run], *, jobs: int, gpus: Sequence[str], retries: int) -> list[str]:
    """Run what has no result yet and return the titles of what failed.

    Args:
        runs: in the order in which they start.
        jobs: how many at once, where no GPUs are given.
        gpus: one process on each of these devices at a time.
        retries: further attempts at a run that failed; each resumes the one before.
    """
    failed: list[str] = []
    waiting: list[Run] = []
    for run, state in row_states(runs):
        if state == "done":
            _say(f"{run.title}: done")
        elif state == "refused":
            _say(f"{run.title}: its options are refused")
            failed.append(run.title)
        else:
            waiting.append(run)
    # Rows that test what others train come last; they would wait for those.
    waiting.sort(key=lambda run: bool(run.row.trained_as))
    slots: queue.Queue[str | None] = queue.Queue()
    for slot in gpus or [None] * jobs:  # type: ignore[list-item]
        slots.put(slot)
    workers = slots.qsize()
    stop = threading.Event()

    def work(run: Run) -> int:
        slot = slots.get()
        try:
            return INTERRUPTED if stop.is_set() else _attempts(run, slot, workers, retries, stop)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, run) for run in waiting]
        try:
            codes = [future.result() for future in futures]
        except KeyboardInterrupt:
            # The terminal has interrupted the tasks too: each saves and ends by itself.
            stop.set()
            raise
    return failed + [run.title for run, code in zip(waiting, codes, strict=True) if code]


def _attempts(run: Run, gpu: str | None, workers: int, retries: int, stop: threading.Event) -> int:
    try:
        # What another row of this runner is training is worth waiting for.
        with run.lock().acquire(timeout=-1 if run.row.trained_as else 0):
            # Another runner may have finished it since this one looked.
            if run.state(finished_runs(run)) == "done":
                _say(f"{run.title}: done")
                return 0
            code = 1
            for attempt in range(1 + retries):
                _say(f"{run.title}: {'running' if attempt == 0 else 'trying again'}")
                code = _train_and_test(run, gpu, workers)
                if code == 0 or stop.is_set():
                    break
            _say(f"{run.title}: {'done' if code == 0 else _where_failed(run, workers)}")
            return code
    except Timeout:
        _say(f"{run.title}: another process is running it; passed over")
        return 0


def _train_and_test(run: Run, gpu: str | None, workers: int) -> int:
    """Both commands; several at once share the cores and write to a log each."""
    environment = dict(os.environ)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    run.log.parent.mkdir(parents=True, exist_ok=True)
    run.failure.unlink(missing_ok=True)
    code = 0
    with run.log.open("a") as log:
        output = log if workers > 1 else None
        for command in run.commands():
            if code == 0:
                process = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=output
                )
                code = process.returncode
    if code:
        run.failure.touch()
    return code


def _where_failed(run: Run, workers: int) -> str:
    return f"failed, see {run.log}" if workers > 1 else "failed"


def _say(line: str) -> None:
    print(line, flush=True)


def slurm_submit(
    runs: Sequence[Run], *, cluster: str, parameters: dict[str, Any], retries: int
) -> list[Any]:
    """Submit every run that has no result yet as a job of its own, through submitit.

    Args:
        runs: what to submit.
        cluster: "slurm", or "local" for processes on this machine.
        parameters: of submitit's executor, such as slurm_partition, timeout_min, gpus_per_node.
        retries: see :func:`run_all`.

    Returns:
        submitit's jobs; a job's result is the run's exit code.
    """
    import submitit

    waiting = []
    for run, state in row_states(runs):
        _say(
            f"{run.title}: {'submitted' if state not in ('done', 'running', 'refused') else state}"
        )
        if state not in ("done", "running", "refused"):
            waiting.append(run)
    if not waiting:
        return []
    folder = runs[0].places.runs / "submitit"
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    with executor.batch():
        return [executor.submit(_job, run, retries) for run in waiting]


def _job(run: Run, retries: int) -> int:
    return _attempts(run, None, 1, retries, threading.Event())
