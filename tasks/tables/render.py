"""Tables from results/*.jsonl: Markdown, LaTeX and CSV, our numbers beside the reported ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.tables.cells import Block, comma_separated, document, latex
from tasks.tables.figures import bars_by_part
from tasks.tables.lines import Asked
from tasks.tables.numbers import Sheet, breakdown_of, sheets_of
from tasks.tables.pivot import main_lines, parts_down
from tasks.tables.provenance import provenance
from tasks.tables.spec import Table

__all__ = ["blocks_of", "write_sheets", "write_tables", "write_texts"]


def blocks_of(sheet: Sheet, *, parts: bool = True) -> list[Block]:
    """All that a table's own file and its section of the page say, in order.

    Without `parts`, what follows from the values by part on is left out.
    """
    table = sheet.table
    blocks: list[Block] = [
        ("h1", f"{sheet.title}{sheet.whose}"),
        ("table", main_lines(sheet)),
    ]
    if sheet.runs:
        blocks.append(("p", provenance(sheet.records)))
        # It speaks of the published numbers on the table's own data.
        if sheet.published and sheet.dataset == table.dataset and table.note:
            blocks += [("p", text) for text in re.split(r"\n\s*\n", table.note.strip())]
        if len(lines := parts_down(sheet)) > 1:
            if not parts:
                return blocks
            blocks += [("h2", f"By {table.breakdown}"), ("table", lines)]
    how = "--publish" if sheet.published else "--print"
    return [*blocks, ("p", f"Made by `python reproduce.py {table.key} {how}`.")]


def write_tables(
    table: Table,
    results: Path,
    *,
    empty: bool = True,
    published: bool = False,
    asked: Asked | None = None,
) -> list[Path]:
    """Write <results>/<table>.{md,tex,csv}, and one more set for each other data set.

    Args:
        table: what to write.
        results: folder of the result lines, and of the tables.
        empty: also write the table's own where nothing of it has run.
        published: whether these are the published ones.
        asked: see :func:`tasks.tables.lines.gather`.
    """
    sheets = sheets_of(table, results, asked, published=published)
    if empty:
        own = Sheet(table=table, dataset=table.dataset, published=published)
        sheets.setdefault(table.dataset, own)
    return write_sheets(list(sheets.values()), results)


def write_sheets(sheets: Sequence[Sheet], results: Path) -> list[Path]:
    """Write the files of one table's sheets; see :func:`write_tables`."""
    written = []
    for sheet, stem in zip(sheets, _stems(sheets), strict=True):
        lines = main_lines(sheet)
        texts = {
            "md": document(blocks_of(sheet)), "tex": latex(lines), "csv": comma_separated(lines)
        }  # fmt: skip
        written += write_texts(results, stem, texts)
        if not sheet.table.compares and any(map(breakdown_of, sheet.records)):
            written.append(bars_by_part(sheet, results / f"{stem}.png"))
    return written


def write_texts(folder: Path, stem: str, texts: Mapping[str, str]) -> list[Path]:
    """Write texts by suffix, in a folder that is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.{suffix}" for suffix in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def _stems(sheets: Sequence[Sheet]) -> list[str]:
    """Names of their files: with the first part of a data set's name, where that tells."""
    short = [_slug(sheet.dataset.split(" (")[0]) for sheet in sheets]
    return [
        sheet.table.key
        if sheet.dataset == sheet.table.dataset
        else f"{sheet.table.key}_on_{slug if short.count(slug) == 1 else _slug(sheet.dataset)}"
        for sheet, slug in zip(sheets, short, strict=True)
    ]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
