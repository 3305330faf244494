"""`python -m tasks.report --out DIR`: one static HTML page of all results.

    python -m tasks.report --out report                      # from runs/results/ and results/
    python -m tasks.report --out report --runs runs          # with curves and pictures of the runs

DIR/index.html needs no network and no other file. From result lines, a user's own and the published
ones, each in sections of their own, come the tables, bars, heat maps and reliability diagrams; from
run directories training curves and what each task draws, wherever under them it was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.files import replacing
from tasks import ROOT, all_tasks
from tasks.engine.results import OWN, PUBLISHED, scan
from tasks.report.markup import Markup, page, parse_markdown, sentence, tag
from tasks.report.runs import Run, curves_section, drawn_section, find_runs, pictures_section
from tasks.report.sections import Group, laid_out, table_section
from tasks.tables.numbers import Sheet, sheets_of
from tasks.tables.own import asked_of
from tasks.tables.render import blocks_of
from tasks.tables.spec import Row, Table
from tasks.tables.states import Places

Record = dict[str, Any]
Section = tuple[str, str, Markup]
TITLE = "CrossNorm and SelfNorm: results"
# Summary values that are shares, shown in percent.
SHARES = ("error", "ece", "accuracy", "mce", "miou")


def load_tables(configs: Path) -> list[Table]:
    """Our studies, then the paper's tables."""
    folders = (configs / "studies", configs / "paper")
    return [Table.load(path) for folder in folders for path in sorted(folder.glob("*.yaml"))]


def groups_of(
    table: Table,
    results: Path,
    runs: Sequence[Run],
    remarks: list[str],
    *,
    published: bool = False,
) -> list[Group]:
    """A group for each data set that the table's rows were measured on.

    Args:
        table: whose rows they are.
        results: folder of the result lines.
        runs: run directories, of all tables.
        remarks: takes what is to be said of lines that were passed over.
        published: whether these lines are the published ones.
    """
    names = {table.run_name(row) for row in table.rows}
    own = [run for run in runs if run.task == table.task and run.name in names]
    # As a reproduction without any option asks for them.
    asked = asked_of(Places())(table) if results.is_dir() else None
    found = sheets_of(table, results, asked, published=published, notes=remarks)
    if own and not found:
        # No test has followed them yet: on which data they run, the result lines will say.
        found = {table.dataset: Sheet(table=table, dataset=table.dataset)}
    source = "published" if published else "own"
    return [
        Group(sheet=sheet, blocks=blocks_of(sheet), directories=own, source=source)
        for sheet in found.values()
    ]


def other_lines(tables: Sequence[Table], results: Path, remarks: list[str]) -> list[Group]:
    """Result lines of runs that are no table's, by task and data set; see :func:`groups_of`."""
    known = {table.run_name(row) for table in tables for row in table.rows}
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for path in sorted(results.glob("*.jsonl")):
        for number, record, fault in scan(path):
            if record is None or fault:
                remarks.append(f"{path}, line {number} is passed over, {fault}.")
                continue
            if record["name"] in known:
                continue
            label = f"{record['name']} {record.get('config_hash', '')}".strip()
            if record["selection"] != "last epoch":
                label += f" ({record['selection']})"
            by_label = found.setdefault((path.stem, record["dataset"]), {})
            by_label.setdefault(label, []).append(record)
    return [_other_group(*place, runs) for place, runs in found.items()]


def _other_group(task: str, dataset: str, runs: dict[str, list[Record]]) -> Group:
    keys = dict.fromkeys(k for rs in runs.values() for r in rs for k in r["summary"])
    shares = {key: key for key in keys if key.endswith(SHARES)}
    rows = [Row(name=label, network="") for label in runs]
    table = Table(
        key=f"other-{task}", title="", dataset=dataset, task=task, configs=[], rows=rows,
        columns=shares, metric=next((k for k in ("mce", *shares) if k in shares), ""),
    )  # fmt: skip
    lines = [["run", "seed", *(f"{k} in %" if k in shares else k for k in keys), "time"]]
    for label, records in runs.items():
        for r in records:
            values = (
                ""
                if r["summary"].get(k) is None
                else f"{r['summary'][k] * (100 if k in shares else 1):.4g}"
                for k in keys
            )
            lines.append([label, str(r.get("seed", "")), *values, str(r.get("time", ""))[:16]])
    told = "Lines of runs that are no table's row."
    return Group(
        sheet=Sheet(table=table, dataset=dataset, runs={row.key: runs[row.name] for row in rows}),
        blocks=[("h1", f"{task}: {dataset}"), ("table", lines), ("p", told)],
    )


def build(results: Path, runs: Sequence[Path], configs: Path, published: Path | None = None) -> str:
    """The page's text; `published` is a folder of results beside the user's own.

    Raises:
        ValueError: there is nothing to show.
    """
    directories = find_runs(runs)
    remarks: list[str] = []
    tables = load_tables(configs)
    by_table = {table.key: groups_of(table, results, directories, remarks) for table in tables}
    if published is not None:
        for table in tables:
            by_table[table.key] += groups_of(table, published, [], remarks, published=True)
    others = other_lines(tables, results, remarks)
    groups = [group for own in by_table.values() for group in own] + others
    sections = [_section(group) for group in groups]
    sections += _other_runs(directories, groups)
    drawn = {name: drawn_section(runs, task.DRAWN) for name, task in all_tasks().items()}
    for name, pictures in drawn.items():
        if pictures:
            parts = Markup("".join([tag("h2", f"{name}: pictures"), *pictures]))
            sections.append((f"pictures-{name}", f"{name} pictures", parts))
    for folder in (results, published):
        sections += _further_tables(folder, by_table) if folder is not None else []
    remarks = list(dict.fromkeys(remarks))
    if not sections:
        raise ValueError(
            f"Expected results in {results} or run directories by `--runs`, but found none: "
            + " ".join([*remarks, "`python reproduce.py quickstart` makes some."])
        )
    there = {run.task for run in directories}
    absent = [
        task.ABSENT
        for name, task in all_tasks().items()
        if task.ABSENT and not (drawn[name] if task.DRAWN else name in there or not there)
    ]
    sections.append(_what_is_missing(tables, by_table, directories, absent, remarks))
    times = [str(r.get("time", "")) for group in groups for r in group.sheet.records]
    counts = f"{len(times)} result lines and {len(directories)} run directories"
    newest = f"; newest result {max(times)[:10]}" if any(times) else ""
    return page(TITLE, f"Made from {counts}{newest}.", sections)


def _section(group: Group) -> Section:
    table, dataset = group.sheet.table, group.sheet.dataset
    name = table.key.replace("other-", "other: ")
    if dataset != table.dataset:
        name += f" on {dataset.partition(' (')[0]}"
    name += f" ({group.source})" if group.source else ""
    anchor = "".join(c if c.isalnum() else "-" for c in f"{name} {dataset}".lower())
    return anchor, name.replace("_", " "), table_section(group)


def _other_runs(runs: Sequence[Run], groups: Sequence[Group]) -> list[Section]:
    """Curves and pictures of runs that no table's section shows, by task."""
    shown = {run.path for group in groups for run in group.directories}
    sections = []
    for task in dict.fromkeys(run.task for run in runs):
        own = [run for run in runs if run.task == task and run.path not in shown]
        if own:
            order = dict.fromkeys(run.name for run in own)
            names = {name: (name, number) for number, name in enumerate(order)}
            parts = [tag("h2", f"{task}: further runs"), *curves_section(own, names)]
            parts += pictures_section(own, names)
            sections.append((f"runs-{task}", f"{task} runs", Markup("".join(parts))))
    return sections


def _further_tables(results: Path, by_table: dict[str, list[Group]]) -> list[Section]:
    """Tables in results/ that other commands wrote, such as benchmarks."""
    sections = []
    for path in sorted(results.glob("*.md")):
        if path.stem == "tables" or any(
            path.stem == k or path.stem.startswith(f"{k}_on_") for k in by_table
        ):
            continue
        title, shown, folded = laid_out(parse_markdown(path.read_text(encoding="utf-8")))
        content = Markup("".join([tag("h2", title or path.stem), *shown, *folded]))
        sections.append((path.stem, path.stem.replace("_", " "), content))
    return sections


def _what_is_missing(
    tables: Sequence[Table],
    by_table: dict[str, list[Group]],
    runs: Sequence[Run],
    absent: Sequence[str],
    remarks: Sequence[str],
) -> Section:
    parts = [tag("h2", "What is not here")]
    missing = [table for table in tables if not by_table[table.key]]
    if missing:
        items = [
            tag("li", f"{t.title}: not run; ", tag("code", f"python reproduce.py {t.key}"))
            for t in missing
        ]
        parts.append(tag("ul", *items))
    if not runs:
        parts.append(sentence("No training curves or pictures: no run directories were given."))
    parts += map(sentence, absent)
    if remarks:
        parts += [tag("h3", "Passed over"), tag("ul", *(tag("li", text) for text in remarks))]
    return "missing", "what is not here", Markup("".join(parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--results", type=Path, help=f"of own result lines ({OWN})")
    parser.add_argument(
        "--published", type=Path, help="of published ones (results/, where --results is not given)"
    )
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of runs")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs", help="of tables")
    options = parser.parse_args(arguments)
    try:
        published = options.published or (None if options.results else PUBLISHED)
        text = build(options.results or OWN, options.runs, options.configs, published)
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "index.html"
        # Whole or not at all: a reader may have it open.
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
