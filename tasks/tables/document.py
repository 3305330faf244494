"""All tables in one document, results/tables.{md,tex,csv}.

The paper's tables come first: our numbers on the very data of the paper, beside the reported ones.
Runs on subsets, other or generated data, or under corruptions made here follow, each set in a table
of its own and beside nobody's numbers. The CSV has one line a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.tables.cells import Block, Lines, comma_separated, document, escaped, latex
from tasks.tables.lines import Asked
from tasks.tables.numbers import Number, Sheet, sheets_of
from tasks.tables.pivot import main_lines, parts_across
from tasks.tables.provenance import provenance
from tasks.tables.render import write_texts
from tasks.tables.spec import Table

__all__ = ["write_document"]

ABOUT = (
    "Mean ± sample standard deviation over seeds, of the last epoch of finished runs. "
    '"reported": the value that the paper, or the method\'s authors, report; "independent": what '
    'others measured; "not available": no source of it could be read.'
)
OTHERS = (
    "Subsets, other and generated data, or corruptions made here. None of these numbers may be "
    "compared with the paper's."
)
THEIRS = "Numbers that came with this repository: none of these runs was made here."
HEADER = [
    *("table", "dataset", "network", "setting", "method", "quantity", "mean", "std", "n", "seeds"),
    *("reported", "independent", "ours - reported"),
]


def cells_of(number: Number) -> list[str]:
    """Its line in the CSV; values have four decimals."""
    row, values = number.row, number.values
    others = (
        "" if not number.compares else "not available" if value is None else f"{value:.4f}"
        for value in (number.reported, number.independent)
    )
    return [
        *(number.sheet.table.key, number.sheet.dataset, row.network, number.setting, row.name),
        number.quantity,
        f"{statistics.mean(values):.4f}" if values else "",
        f"{statistics.stdev(values):.4f}" if len(values) > 1 else "",
        str(len(values)),
        " ".join(str(seed) for seed, _ in number.points),
        *others,
        "" if number.difference is None else f"{number.difference:+.4f}",
    ]


def write_document(
    tables: Sequence[Table],
    results: Path,
    *,
    published: Path | None = None,
    asked: Callable[[Table], Asked] | None = None,
) -> list[Path]:
    """Write <results>/tables.{md,tex,csv} of all tables and data sets.

    Args:
        tables: all of them.
        results: folder of the result lines, and of the document.
        published: folder of the published lines, which then follow in a part of their own; None
            where `results` are these.
        asked: for each table, see :func:`tasks.tables.lines.gather`.
    """
    own = {t.key: sheets_of(t, results, asked and asked(t)) for t in tables}
    papers = [
        own[t.key].pop(t.dataset, Sheet(table=t, dataset=t.dataset)) for t in tables if t.paper
    ]
    others = [sheet for sheets in own.values() for sheet in sheets.values()]
    parts = [("The paper's tables", ABOUT, papers, "own")]
    parts += [("Other data", OTHERS, others, "own")] if others else []
    if published is not None:
        theirs = [sheet for table in tables for sheet in sheets_of(table, published).values()]
        parts.append(("Published", THEIRS, theirs, "published"))
        parts[0] = (f"{parts[0][0]} (own runs)", *parts[0][1:])
    blocks: list[Block] = []
    tex = ["% Needs the packages booktabs, graphicx and float."]
    numbers = [HEADER if published is None else [*HEADER, "source"]]
    for title, about, sheets, source in parts:
        blocks += [("h1", title), ("p", about)]
        tex.append(f"% {about}" if about is ABOUT else f"% {title}. {about}")
        for sheet in sheets:
            _add(blocks, tex, sheet)
            cells = map(cells_of, sheet.numbers())
            numbers += [[*c, source] if published is not None else c for c in cells]
    how = "--print" if published is not None else "--publish"
    blocks.append(("p", f"Made by `python reproduce.py all {how}`."))
    texts = {"md": document(blocks), "tex": "\n".join(tex), "csv": comma_separated(numbers)}
    return write_texts(results, "tables", texts)


def _add(blocks: list[Block], tex: list[str], sheet: Sheet) -> None:
    """Append one sheet to both documents."""
    table, dataset = sheet.table, sheet.dataset
    lines = main_lines(sheet)
    none = f"Data: {dataset}. No row has run on it."
    data = provenance(sheet.records) if sheet.runs else none
    blocks += [("h2", sheet.title), ("table", lines), ("p", data)]
    tex.append(_float(lines, f"{sheet.title}. {dataset}.", f"{table.key}-{_label(dataset)}"))
    if len(parts := parts_across(sheet)) > 1:
        title = f"{sheet.title.split(':')[0]} by {table.breakdown}"
        blocks += [("h3", title), ("table", parts)]
        caption = f"{sheet.title}, by {table.breakdown}. {dataset}."
        tex.append(_float(parts, caption, f"{table.key}-{_label(dataset)}-parts", left=3))


def _float(lines: Lines, caption: str, label: str, *, left: int = 2) -> str:
    return "\n".join(
        [
            r"\begin{table}[H]\centering",
            rf"\caption{{{escaped(caption)}}}\label{{tab:{label}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            latex(lines, left=left).rstrip() + "}",
            r"\end{table}",
            "",
        ]
    )


def _label(dataset: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in dataset.lower())
