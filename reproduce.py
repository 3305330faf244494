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
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.table_spec import Row, Table

ROOT = Path(__file__).resolve().parent
# The paper's tables, and ours on data that are not the paper's.
TABLES = {
    path.stem: path
    for folder in ("paper", "studies")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
}


def commands(table: Table, row: Row, seed: int, args: argparse.Namespace) -> list[list[str]]:
    """The `fit` and the `test` of one run."""
    overrides = dict(row.options)
    if args.root:
        overrides["data.root"] = args.root
    shared = [f"--config={config}" for config in (*table.configs, *row.configs, *args.config)]
    shared += [f"--{key}={value}" for key, value in overrides.items()]
    shared += [f"--seed_everything={seed}", f"--name={table.run_name(row)}"]
    shared += [f"--runs={args.runs}", f"--results={args.results}", *args.options]
    return [
        [sys.executable, "-m", f"tasks.{table.task}", action, *shared] for action in ("fit", "test")
    ]


def run_missing(table: Table, args: argparse.Namespace) -> list[str]:
    """Run every row and seed that has no result yet; returns what failed."""
    jobs = [(seed, row) for seed in range(args.seeds) for row in table.rows]
    jobs = [job for job in jobs if not args.rows or job[1].name in args.rows]
    failed, waiting = [], []
    for seed, row in jobs:
        fit, test = commands(table, row, seed, args)
        state = _state(table, seed, fit, Path(args.results))
        title = f"{table.run_name(row)}, seed {seed}"
        if state == "refused":
            failed.append(title)
        elif state == "done":
            print(f"{title}: done", flush=True)
        else:
            waiting.append((title, (fit, test)))
    with ThreadPoolExecutor(args.jobs) as pool:
        codes = pool.map(lambda job: _run_job(*job, args), waiting)
        failed += [title for (title, _), code in zip(waiting, codes, strict=True) if code]
    return failed


def _state(table: Table, seed: int, fit: list[str], results: Path) -> str:
    from tasks.cli import expected_hash
    from tasks.results import read_results

    digest = expected_hash(table.task, fit[3:])
    if digest is None:
        return "refused"
    records = read_results(results / f"{table.task}.jsonl")
    done = any(r.get("config_hash") == digest and r.get("seed") == seed for r in records)
    return "done" if done else "waiting"


def _run_job(title: str, steps: tuple[list[str], ...], args: argparse.Namespace) -> int:
    """Train and test one run; several at once share the cores and write to a log file each."""
    print(f"{title}: running", flush=True)
    if args.jobs == 1:
        codes = (subprocess.run(step, cwd=ROOT).returncode for step in steps)
        return next((code for code in codes if code), 0)
    cores = max(1, (os.cpu_count() or 1) // args.jobs)
    shared: dict[str, Any] = {"cwd": ROOT, "env": {"OMP_NUM_THREADS": str(cores), **os.environ}}
    path = Path(args.runs) / "logs" / f"{title.replace(', ', '-').replace(' ', '')}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        for step in steps:
            code = subprocess.run(step, stdout=log, stderr=log, **shared).returncode
            if code:
                print(f"{title}: failed, see {path}", flush=True)
                return code
    print(f"{title}: done", flush=True)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 of every row")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, which share the cores")
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
    table = Table.load(TABLES[args.table])
    if args.jobs < 1 or args.seeds < 1:
        parser.error("expected --jobs and --seeds to be at least 1")
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
