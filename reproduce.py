"""Run what is missing of a table, then print it with our numbers beside the reported ones.

    python reproduce.py quickstart                              # bundled digits, 3 seeds
    python reproduce.py cifar10c --seeds 3 --root ~/datasets    # every row of the paper's table
    python reproduce.py cifar10c --print                        # only what is there already

A table is a file in configs/paper/ or configs/studies/: rows are overrides of a task's options.
Runs are ordinary runs of the task's command line: they resume, and finished ones are not run
again. Numbers come from results/*.jsonl alone. Runs on a subset or another data set never stand in
the paper's table, but in one of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent
# The paper's tables, and ours on data that are not the paper's.
TABLES = {
    path.stem: path
    for folder in ("paper", "studies")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
}


@dataclass(frozen=True)
class Row:
    """A method of a table: the options that make it, and what others measured."""

    name: str
    network: str
    options: dict[str, Any] = field(default_factory=dict)
    reported: float | None = None
    independent: float | None = None
    independent_per_corruption: list[float] | None = None


@dataclass(frozen=True)
class Table:
    """A table of the paper, or of ours."""

    key: str
    title: str
    dataset: str
    task: str
    configs: list[str]
    rows: list[Row]

    @staticmethod
    def load(key: str) -> Table:
        content = yaml.safe_load(TABLES[key].read_text())
        rows = [Row(**row) for row in content.pop("rows")]
        return Table(key=key, rows=rows, **content)


def run_name(table: Table, row: Row) -> str:
    return f"{table.key}/{row.network}/{row.name}".replace(" ", "_")


def commands(table: Table, row: Row, seed: int, args: argparse.Namespace) -> list[list[str]]:
    """The `fit` and the `test` of one run."""
    overrides = dict(row.options)
    if args.root:
        overrides["data.root"] = args.root
    shared = [f"--config={config}" for config in (*table.configs, *args.config)]
    shared += [f"--{key}={value}" for key, value in overrides.items()]
    shared += [f"--seed_everything={seed}", f"--name={run_name(table, row)}"]
    shared += [f"--runs={args.runs}", f"--results={args.results}", *args.options]
    return [
        [sys.executable, "-m", f"tasks.{table.task}", action, *shared] for action in ("fit", "test")
    ]


def run_missing(table: Table, args: argparse.Namespace) -> list[str]:
    """Run every row and seed that has no result yet; returns what failed."""
    from tasks.cli import expected_hash
    from tasks.results import read_results

    results = Path(args.results) / f"{table.task}.jsonl"
    failed = []
    jobs = [(seed, row) for seed in range(args.seeds) for row in table.rows]
    jobs = [job for job in jobs if not args.rows or job[1].name in args.rows]
    for number, (seed, row) in enumerate(jobs, start=1):
        title = f"{run_name(table, row)}, seed {seed} ({number} of {len(jobs)})"
        fit, test = commands(table, row, seed, args)
        done = {r.get("config_hash") for r in read_results(results) if r.get("seed") == seed}
        digest = expected_hash(table.task, fit[3:])
        if digest is None:
            failed.append(title)
            continue
        if digest in done:
            print(f"{title}: done", flush=True)
            continue
        print(f"{title}: running", flush=True)
        if any(subprocess.run(command, cwd=ROOT).returncode for command in (fit, test)):
            failed.append(title)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 of every row")
    parser.add_argument("--rows", nargs="*", default=[], help="only these rows")
    parser.add_argument("--root", help="folder of the data set, for --data.root")
    parser.add_argument("--config", nargs="*", default=[], help="more YAML, merged last")
    parser.add_argument("--runs", default="runs", help="folder of run directories")
    parser.add_argument("--results", default="results", help="folder of results")
    parser.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=[],
        help="everything after it goes to the task's command line",
    )
    args = parser.parse_args()
    table = Table.load(args.table)
    if args.rows and (unknown := set(args.rows) - {row.name for row in table.rows}):
        parser.error(f"expected --rows among {[r.name for r in table.rows]}, got {sorted(unknown)}")
    from tasks.tables import write_tables

    failed: list[str] = []
    try:
        failed = [] if args.print else run_missing(table, args)
    except KeyboardInterrupt:
        print("Interrupted. The same command continues where it was.", file=sys.stderr)
        sys.exit(130)
    finally:
        write_tables(table, Path(args.results))
    for title in failed:
        print(f"failed: {title}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
