"""Run what is missing of a table, then print it with our numbers beside the reported ones.

    python reproduce.py --list                                  # tables, rows and where they stand
    python reproduce.py quickstart                              # bundled digits, 3 seeds
    python reproduce.py cifar10c --seeds 3 --root ~/datasets    # every row of the paper's table
    python reproduce.py cifar10c --gpus 0 1 2 3                 # one run a GPU at a time
    python reproduce.py cifar10c --cluster slurm --job slurm_partition=gpu gpus_per_node=1
    python reproduce.py cifar10c --print                        # only what is there already
    python reproduce.py all --print                             # runs/results/tables.{md,tex,csv}
    python reproduce.py all --check 0.5                         # do finished rows agree?
    python reproduce.py cifar10c --publish                      # own results into results/

A table is a file in configs/paper/ or configs/studies/: rows are overrides of a task's options.
Runs are ordinary runs of the task's command line: they resume, and finished ones are not run
again. Numbers come from result lines alone: a user's own in runs/results/, and the published ones
in results/, which no run writes to; every table says which it is made of, and published ones count
as done only with --published. Runs on a subset or another data set never stand in the paper's
table, but in one of their own.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tasks.engine.results import OWN, check_own
from tasks.runs.output import outlive_readers
from tasks.tables.cells import spread
from tasks.tables.listing import describe, row_states_of
from tasks.tables.numbers import compared
from tasks.tables.own import asked_of, print_notes, publish_tables, show, write_all
from tasks.tables.runner import Places, run_all, runs_of, slurm_submit
from tasks.tables.spec import Row, Table

ROOT = Path(__file__).resolve().parent


def _by_number(path: Path) -> list[str]:
    """Sorts 10 before 100."""
    return [part.zfill(4) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


# The paper's tables, and ours on data that are not the paper's.
TABLES = {
    path.stem: path
    for folder in ("paper", "studies")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"), key=_by_number)
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
    """Every row with the states of its seeds, its cost, the reported value, its data."""
    print(
        f"Seeds 0 to {args.seeds - 1}. Cost: arithmetic of one seed's training, and the hours that "
        f"it takes at a sustained {args.tflops:g} TFLOP/s (--tflops)."
    )
    for table in tables:
        print(f"\n{table.key}: {table.title}")
        rows = choose_rows(table, args.rows)
        for state in row_states_of(table, rows, args.seeds, places):
            print(describe(state, table, args.tflops))


def check(tables: list[Table], places: Places, tolerance: float) -> int:
    """How many finished rows miss their reported value by more than `tolerance`; says which."""
    numbers = [("", number) for number in compared(tables, places.results, asked_of(places))]
    numbers += [("published ", number) for number in compared(tables, places.published)]
    missed = 0
    for source, number in numbers:
        difference = number.difference
        assert difference is not None
        # Also where it is no number.
        misses = not abs(difference) <= tolerance
        missed += misses
        print(
            f"{source}{'misses' if misses else 'agrees'}: {number.title}: "
            f"{spread(number.values)} over {len(number.values)} seeds, reported "
            f"{number.reported:.1f} ({difference:+.1f})"
        )
    if not numbers:
        print("Nothing to check: no finished row has a reported value.")
    return missed


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
    parser.add_argument(
        "--check",
        type=float,
        metavar="TOL",
        help="run nothing; fail where a finished row misses its reported value by more than TOL",
    )
    parser.add_argument(
        "--tflops", type=float, default=10.0, help="speed that costs are listed for (10)"
    )
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
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--config", nargs="+", default=[], help="more YAML, merged last")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs")
    parser.add_argument("--results", type=Path, default=OWN, help="folder of own results")
    parser.add_argument(
        "--published", action="store_true", help="what is published counts as done: it is not run"
    )
    parser.add_argument(
        "--publish", action="store_true", help="run nothing; add own results to results/"
    )
    parser.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=[],
        help="everything after it goes to the task's command line",
    )
    args = parser.parse_args(arguments)
    if args.jobs < 1 or args.seeds < 1 or args.retries < 0:
        parser.error("expected --jobs and --seeds to be at least 1, and --retries at least 0")
    if args.tflops <= 0 or (args.check is not None and not args.check >= 0):
        parser.error("expected --tflops to be positive, and --check to be 0 or more")
    if missing := [path for path in args.config if not Path(path).is_file()]:
        parser.error(f"expected --config to be YAML files, but there is none at {missing[0]}")
    try:
        check_own(args.results)
    except ValueError as error:
        parser.error(str(error))
    args.print = args.print or args.check is not None
    if args.table == "all" and not (args.list or args.print or args.publish):
        parser.error(
            f"say which table to run: {', '.join(TABLES)}; or --list, --check TOL, all --print or "
            "all --publish"
        )
    args.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return args


def main(arguments: list[str] | None = None) -> int:
    outlive_readers()
    args = parse(arguments)
    places = Places(
        runs=args.runs,
        results=args.results,
        counts_published=args.published,
        root=args.root,
        configs=args.config,
        options=args.options,
    )
    keys = list(TABLES) if args.table == "all" else [args.table]
    try:
        tables = [Table.load(TABLES[key]) for key in keys]
        if args.list:
            print_list(tables, args, places)
            print_notes(tables, places)
            return 0
        if args.publish:
            publish_tables(tables, [Table.load(path) for path in TABLES.values()], places)
            return 0
        failed: list[str] = []
        try:
            failed = [] if args.print else run_table(tables[0], args, places)
        finally:
            if args.table == "all":
                write_all(tables, places)
            else:
                started = None if args.print else args.started
                show(tables[0], places, quiet=args.check is not None, started=started)
            print_notes(tables, places)
        if args.check is not None:
            return int(check(tables, places, args.check) > 0)
    except KeyboardInterrupt:
        print("Interrupted. The same command continues where it was.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title in failed:
        print(f"failed: {title}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
