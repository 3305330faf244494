"""Run what is missing of a table, then print it with our numbers beside the reported ones.

    python reproduce.py --list                                  # tables, rows and where they stand
    python reproduce.py quickstart                              # bundled digits, 3 seeds
    python reproduce.py cifar10c --seeds 3 --root ~/datasets    # every row of the paper's table
    python reproduce.py cifar10c --gpus 0 1 2 3                 # one run a GPU at a time
    python reproduce.py cifar10c --cluster slurm --job slurm_partition=gpu gpus_per_node=1
    python reproduce.py cifar10c --print                        # only what is there already

A table is a file in configs/paper/ or configs/studies/: rows are overrides of a task's options.
Runs are ordinary runs of the task's command line: they resume, and finished ones are not run
again. Numbers come from results/*.jsonl alone. Runs on a subset or another data set never stand in
the paper's table, but in one of their own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tasks.runner import Places, row_states, run_all, runs_of, slurm_submit
from tasks.table_spec import Row, Table
from tasks.tables import collect, write_tables

ROOT = Path(__file__).resolve().parent
# The paper's tables, and ours on data that are not the paper's.
TABLES = {
    path.stem: path
    for folder in ("paper", "studies")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
}


def choose_rows(table: Table, wanted: list[str]) -> list[Row]:
    """Rows whose name, or whose whole key, is wanted; all where none is named."""
    unknown = [w for w in wanted if not any(w in (row.name, row.key) for row in table.rows)]
    if unknown:
        raise ValueError(
            f"Expected `--rows` of {table.key} to be among "
            f"{', '.join(dict.fromkeys(row.name for row in table.rows))} or keys such as "
            f"{table.rows[0].key}, but got {', '.join(unknown)}."
        )
    return [row for row in table.rows if not wanted or row.name in wanted or row.key in wanted]


def print_list(tables: list[Table], args: argparse.Namespace, places: Places) -> None:
    """Every row with the states of its runs, the results that stand in tables, and the report."""
    for table in tables:
        print(f"\n{table.key}: {table.title}")
        rows = choose_rows(table, args.rows)
        states: dict[str, list[str]] = {row.key: [] for row in rows}
        for run, state in row_states(runs_of(table, rows, args.seeds, places)):
            states[run.row.key].append(state)
        found = collect(table, args.results)
        for row in rows:
            counts = [f"{states[row.key].count(s)} {s}" for s in dict.fromkeys(states[row.key])]
            results = [
                f"{len(runs[row.key])} on {name}" for name, runs in found.items() if row.key in runs
            ]
            reported = "not available" if row.reported is None else f"{row.reported:.1f}"
            line = f"  {row.key:<40} runs: {', '.join(counts):<22} "
            print(f"{line}reported: {reported:<14} results: {', '.join(results) or 'none'}")


def submitit_parameters(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; whole numbers become integers."""
    if bad := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"Expected `--job` to be name=value pairs, but got {bad[0]!r}.")
    split = (pair.split("=", 1) for pair in pairs)
    return {name: int(value) if value.isdigit() else value for name, value in split}


def run_table(table: Table, args: argparse.Namespace, places: Places) -> list[str]:
    runs = runs_of(table, choose_rows(table, args.rows), args.seeds, places)
    if args.cluster:
        jobs = slurm_submit(
            runs,
            cluster=args.cluster,
            parameters=submitit_parameters(args.job),
            retries=args.retries,
        )
        print(f"{len(jobs)} jobs submitted; `--list` says where they stand.")
        return []
    return run_all(runs, jobs=args.jobs, gpus=args.gpus, retries=args.retries)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=[*TABLES, "all"], default="all")
    parser.add_argument("--list", action="store_true", help="say where every row stands")
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1 of every row")
    parser.add_argument("--rows", nargs="+", default=[], help="only these rows, by name or key")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, which share the cores")
    parser.add_argument("--gpus", nargs="+", default=[], help="devices; one run on each at a time")
    parser.add_argument("--retries", type=int, default=1, help="further attempts at a failed run")
    parser.add_argument(
        "--cluster", choices=["slurm", "local"], help="submit each run as a job, through submitit"
    )
    parser.add_argument(
        "--job", nargs="+", default=[], metavar="NAME=VALUE", help="submitit's parameters"
    )
    parser.add_argument("--root", help="folder of the data set, for --data.root")
    parser.add_argument("--config", nargs="+", default=[], help="more YAML, merged last")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    parser.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=[],
        help="everything after it goes to the task's command line",
    )
    args = parser.parse_args(arguments)
    if args.jobs < 1 or args.seeds < 1 or args.retries < 0:
        parser.error("expected --jobs and --seeds to be at least 1, and --retries at least 0")
    if args.table == "all" and not (args.list or args.print):
        parser.error(f"say which table to run: {', '.join(TABLES)}; or --list, or all --print")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    places = Places(
        runs=args.runs,
        results=args.results,
        configs=args.config,
        options=[*([f"--data.root={args.root}"] if args.root else []), *args.options],
    )
    keys = list(TABLES) if args.table == "all" else [args.table]
    try:
        tables = [Table.load(TABLES[key]) for key in keys]
        if args.list:
            print_list(tables, args, places)
            return 0
        failed: list[str] = []
        try:
            failed = [] if args.print else run_table(tables[0], args, places)
        finally:
            for table in tables:
                write_tables(table, args.results)
    except KeyboardInterrupt:
        print("Interrupted. The same command continues where it was.", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title in failed:
        print(f"failed: {title}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
