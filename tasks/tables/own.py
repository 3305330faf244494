"""What `reproduce.py` shows of a table: the user's own results, the published ones, and both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from tasks.engine.results import publish
from tasks.runs.recipe import portable
from tasks.tables.agreement import agreement
from tasks.tables.cells import document, markdown
from tasks.tables.document import write_document
from tasks.tables.lines import Asked, gather
from tasks.tables.numbers import Sheet, sheets_of
from tasks.tables.render import blocks_of, write_sheets, write_tables
from tasks.tables.spec import Row, Table
from tasks.tables.states import Places, Run

__all__ = ["asked_of", "print_notes", "publish_tables", "show", "write_all"]


def asked_of(places: Places) -> Callable[[Table], Asked]:
    """What rows are asked for now, and on which data; see :func:`tasks.tables.lines.gather`."""

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
        write_tables(table, places.results, empty=False, asked=asked(table))
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
    theirs = sheets_of(table, places.published, published=True)
    own = sheets_of(table, places.results, asked_of(places)(table))
    shown = dict(own)
    if not theirs:  # A table of nothing but "not run" would hide the published one.
        shown.setdefault(table.dataset, Sheet(table=table, dataset=table.dataset))
    files = write_sheets(list(shown.values()), places.results)
    if quiet:
        return
    for sheet in shown.values():
        print(f"\n{document(blocks_of(sheet))}")
    if started is not None and own:
        print(_freshness(own.values(), started))
    for path in files:
        print(f"Wrote {path}")
    for dataset, sheet in theirs.items():
        print("\nPublished, not made here:\n")
        print(document(blocks_of(sheet, parts=dataset not in own)))
        if dataset in own:
            lines, sentence = agreement(own[dataset], sheet)
            print(f"Own runs beside the published ones:\n\n{markdown(lines)}\n{sentence}")


def _freshness(own: Iterable[Sheet], started: str) -> str:
    records = [record for sheet in own for record in sheet.records]
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
        found = sheets_of(table, places.results, asked_of(places)(table))
        records = [record for sheet in found.values() for record in sheet.records]
        added = publish(table.task, records, source=places.results, folder=places.published)
        files = write_tables(table, places.published, empty=False, published=True)
        if files:
            print(f"{table.key}: {added} lines added, {len(files)} files written")
    for path in write_document(every, places.published):
        print(f"Wrote {path}")
    print("`python -m tasks.tables.readme` shows them in README and docs/.")
