"""What `reproduce.py` shows of a table: the user's own results, the published ones, and both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tasks.agreement import agreement
from tasks.paper_tables import write_document
from tasks.published import publish
from tasks.run_directory import portable
from tasks.table_records import Asked, Runs, collect, gather
from tasks.table_runs import Places, Run
from tasks.table_spec import Row, Table
from tasks.table_text import markdown
from tasks.tables import render, write_tables

__all__ = ["asked_of", "print_notes", "publish_tables", "show", "write_all"]


def asked_of(places: Places) -> Callable[[Table], Asked]:
    """What rows are asked for now, and on which data; see :func:`tasks.table_records.gather`."""

    def of_row(table: Table, row: Row) -> tuple[Any, Any]:
        run = Run(table=table, row=row, seed=0, places=places)
        recipe = run.recipe()
        return (None, None) if recipe is None else (portable(recipe), run.given_data())

    return lambda table: partial(of_row, table)


def print_notes(tables: Sequence[Table], places: Places) -> None:
    """What was passed over among the user's own result lines, each said once."""
    results, asked = places.results, asked_of(places)
    if not list(results.glob("*.jsonl")):
        print(f"{results} holds no results yet.", file=sys.stderr)
    notes = (note for table in tables for note in gather(table, results, asked(table))[1])
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)


def write_all(tables: Sequence[Table], places: Places) -> None:
    """One document of all tables, and the files of those that ran here."""
    asked = asked_of(places)
    for table in tables:
        write_tables(table, places.results, show=False, empty=False, asked=asked(table))
    for path in write_document(tables, places.results, published=places.published, asked=asked):
        print(f"Wrote {path}")


def show(table: Table, places: Places, *, quiet: bool = False, started: str | None = None) -> None:
    """Write the user's own table; print it, the published one, and whether they agree.

    Args:
        table: to show.
        places: of the results.
        quiet: print nothing.
        started: when the command that trained began, as in result lines; None where none did.
    """
    asked = asked_of(places)(table)
    theirs = collect(table, places.published)
    # A table of nothing but "not run" would hide the published one.
    files = write_tables(table, places.results, show=False, empty=not theirs, asked=asked)
    if quiet:
        return
    own = collect(table, places.results, asked)
    for path in files:
        if path.suffix == ".md":
            print(f"\n{path.read_text(encoding='utf-8')}")
    if started is not None and own:
        print(_freshness(own, started))
    for path in files:
        print(f"Wrote {path}")
    for dataset, runs in theirs.items():
        md = render(table, dataset, runs, published=True)["md"]
        print("\nPublished, not made here:\n")
        print(md.partition("\n## ")[0] if dataset in own else md)
        if dataset in own:
            lines, sentence = agreement(table, own[dataset], runs)
            print(f"Own runs beside the published ones:\n\n{markdown(lines)}\n{sentence}")


def _freshness(own: dict[str, Runs], started: str) -> str:
    records = [r for runs in own.values() for rs in runs.values() for r in rs]
    fresh = sum(str(r.get("time", "")) >= started for r in records)
    if not fresh:
        return f"All {len(records)} results of this table were made here before: nothing new ran."
    return f"Fresh: {fresh} of the {len(records)} results of this table were made here just now."


def publish_tables(tables: Sequence[Table], every: Sequence[Table], places: Places) -> None:
    """Add the user's own results to the published ones; make their tables and document anew.

    Args:
        tables: to publish.
        every: all tables, for the document.
        places: of the results.
    """
    for table in tables:
        found = collect(table, places.results, asked_of(places)(table))
        records = [r for runs in found.values() for rs in runs.values() for r in rs]
        added = publish(table.task, records, source=places.results, folder=places.published)
        files = write_tables(table, places.published, show=False, empty=False, published=True)
        if files:
            print(f"{table.key}: {added} lines added, {len(files)} files written")
    for path in write_document(every, places.published):
        print(f"Wrote {path}")
    print("`python -m tasks.readme` shows them in README.")
