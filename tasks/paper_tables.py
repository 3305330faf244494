"""All tables in one document, results/tables.{md,tex,csv}, and the check against the paper.

The paper's tables come first: our numbers on the very data of the paper, beside the reported ones.
Runs on subsets, other or generated data, or under corruptions made here follow, each set in a table
of its own and beside nobody's numbers. The CSV has one line a number.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.corruptions import CORRUPTIONS
from tasks.table_records import Asked, Runs, breakdown_of, collect, independent_parts
from tasks.table_spec import Row, Table
from tasks.table_text import Lines, comma_separated, escaped, latex, markdown, spread
from tasks.tables import (
    averages,
    main_lines,
    methods_of,
    pivot_lines,
    provenance,
    reported_average,
    values_of,
)

__all__ = ["Number", "compared", "numbers_of", "parts_lines", "write_document"]

ABOUT = (
    "Mean ± standard deviation over seeds, of the last epoch of finished runs. "
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


@dataclass(frozen=True, kw_only=True)
class Number:
    """One quantity of one row on one data set: its values by seed, and what others have for it."""

    table: str
    dataset: str
    row: Row
    quantity: str
    setting: str = ""
    values: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    # Whether others' values could stand beside it: on the paper's data alone.
    compares: bool = False
    reported: float | None = None
    independent: float | None = None

    @property
    def difference(self) -> float | None:
        """Our mean less the reported value."""
        if self.reported is None or not self.values:
            return None
        return statistics.mean(self.values) - self.reported

    @property
    def title(self) -> str:
        parts = (self.table, self.row.network, self.setting, self.row.name, self.quantity)
        return ", ".join(filter(None, parts))

    def cells(self) -> list[str]:
        """Its line in the CSV; values have four decimals."""
        several = len(self.values) > 1
        others = [
            "" if not self.compares else "not available" if value is None else f"{value:.4f}"
            for value in (self.reported, self.independent)
        ]
        return [
            *(self.table, self.dataset, self.row.network, self.setting, self.row.name),
            self.quantity,
            f"{statistics.mean(self.values):.4f}" if self.values else "",
            f"{statistics.stdev(self.values):.4f}" if several else "",
            str(len(self.values)),
            " ".join(map(str, self.seeds)),
            *others,
            "" if self.difference is None else f"{self.difference:+.4f}",
        ]


def numbers_of(table: Table, dataset: str, runs: Runs) -> Iterator[Number]:
    """Every number of a table on one data set, also those that have not run."""
    own = dataset == table.dataset and table.paper
    shared: dict[str, Any] = {"table": table.key, "dataset": dataset}
    for row in table.rows:
        records = runs.get(row.key, [])
        seeds = [r["seed"] for r in records]
        for key, quantity in table.columns.items():
            main = own and key == table.metric
            yield Number(
                **shared,
                row=row,
                setting=row.setting,
                quantity=quantity,
                values=values_of(table, records, key),
                seeds=[r["seed"] for r in records if key in r["summary"]],
                compares=main,
                reported=row.reported if main else None,
                independent=row.independent if main else None,
            )
        parts = [breakdown_of(r) for r in records]
        others = independent_parts(row) if own else {}
        for name in dict.fromkeys([*others, *(n for part in parts for n in part if n != "clean")]):
            yield Number(
                **shared,
                row=row,
                setting=row.setting,
                quantity=f"{table.breakdown}: {name}",
                values=[table.scale * part[name] for part in parts if name in part],
                seeds=[s for s, part in zip(seeds, parts, strict=True) if name in part],
                compares=own and name in others,
                independent=others.get(name),
            )
    if table.pivot:
        yield from _averages(table, dataset, runs, own)


def _averages(table: Table, dataset: str, runs: Runs, own: bool) -> Iterator[Number]:
    settings = {row.setting for row in table.rows}
    for rows in methods_of(table):
        by_setting = [runs.get(rows[s].key, []) if s in rows else [] for s in settings]
        common = set.intersection(*({r["seed"] for r in records} for records in by_setting))
        yield Number(
            table=table.key,
            dataset=dataset,
            row=next(iter(rows.values())),
            setting="average",
            quantity=table.columns[table.metric],
            values=averages(table, by_setting),
            seeds=sorted(common),
            compares=own,
            reported=reported_average(table, rows) if own else None,
        )


def compared(
    tables: Iterable[Table], results: Path, asked: Callable[[Table], Asked] | None = None
) -> list[Number]:
    """Every number that has run on the paper's data and that the paper reports."""
    numbers = (
        number
        for table in tables
        if table.paper
        for number in numbers_of(
            table,
            table.dataset,
            collect(table, results, asked and asked(table)).get(table.dataset, {}),
        )
    )
    return [number for number in numbers if number.difference is not None]


def parts_lines(table: Table, runs: Runs, paper: bool) -> Lines:
    """A line a row and source, a column a part: ours, and the independent reproduction's."""
    found = [part for records in runs.values() for r in records for part in breakdown_of(r)]
    names = [name for name in dict.fromkeys(found) if name != "clean"]
    if paper and table.breakdown == "corruption":
        names = [*CORRUPTIONS, *(name for name in names if name not in CORRUPTIONS)]
    lines = [["network", "method", "by", *(n.replace("_", " ") for n in names), "seeds"]]
    for row in table.rows:
        parts = [part for r in runs.get(row.key, []) if (part := breakdown_of(r))]
        others = independent_parts(row) if paper else {}
        place = [row.network, f"{row.name}, {row.setting}" if row.setting else row.name]
        if parts or others:
            values = [[table.scale * part[n] for part in parts if n in part] for n in names]
            lines.append([*place, "ours", *map(spread, values), str(len(parts))])
        if others:
            values = [[others[n]] if n in others else [] for n in names]
            shown = [spread(value) if value else "" for value in values]
            lines.append([*place, "independent", *shown, ""])
    return lines


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
        asked: for each table, see :func:`tasks.table_records.gather`.
    """
    collected = {t.key: collect(t, results, asked and asked(t)) for t in tables}
    papers = [(t, t.dataset, collected[t.key].get(t.dataset, {})) for t in tables if t.paper]
    others = [
        (table, dataset, runs)
        for table in tables
        for dataset, runs in collected[table.key].items()
        if not (table.paper and dataset == table.dataset)
    ]
    md = ["# The paper's tables", ABOUT]
    tex = ["% Needs the packages booktabs, graphicx and float.", f"% {ABOUT}"]
    for table, dataset, runs in papers:
        _add(md, tex, table, dataset, runs, own=True)
    md += ["# Other data", OTHERS] if others else []
    tex += [f"% Other data. {OTHERS}"] if others else []
    for table, dataset, runs in others:
        _add(md, tex, table, dataset, runs, own=False)
    numbers = [n.cells() for entry in (*papers, *others) for n in numbers_of(*entry)]
    header = HEADER
    if published is not None:
        md[0] += " (own runs)"
        md += ["# Published", THEIRS]
        tex += [f"% Published. {THEIRS}"]
        header, numbers = [*HEADER, "source"], [[*number, "own"] for number in numbers]
        for table in tables:
            for dataset, runs in collect(table, published).items():
                _add(md, tex, table, dataset, runs, own=table.paper and dataset == table.dataset)
                numbers += [[*n.cells(), "published"] for n in numbers_of(table, dataset, runs)]
    md.append(f"Made by `python reproduce.py all {'--print' if published else '--publish'}`.")
    texts = {
        "md": "\n\n".join(md) + "\n",
        "tex": "\n".join(tex),
        "csv": comma_separated([header, *numbers]),
    }
    results.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in texts.items():
        path = results / f"tables.{suffix}"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _add(
    md: list[str], tex: list[str], table: Table, dataset: str, runs: Runs, *, own: bool
) -> None:
    """Append one table on one data set to both documents."""
    lines = (pivot_lines if table.pivot else main_lines)(table, runs, own)
    title = table.title
    if dataset != table.dataset:
        title = f"{dataset}: {table.title.split(': ')[-1]}"
    data = provenance(table, runs) if runs else f"Data: {dataset}. No row has run on it."
    md += [f"## {title}", markdown(lines).strip(), data]
    tex.append(_float(lines, f"{title}. {dataset}.", f"{table.key}-{_label(dataset)}"))
    parts = parts_lines(table, runs, own)
    if len(parts) > 1:
        md += [f"### {title.split(':')[0]} by {table.breakdown}", markdown(parts).strip()]
        caption = f"{title}, by {table.breakdown}. {dataset}."
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
