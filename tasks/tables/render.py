"""Tables from results/*.jsonl: Markdown, LaTeX and CSV, our numbers beside the reported ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.engine.results import PRETRAINED
from tasks.tables.cells import Lines, cell, comma_separated, latex, markdown, spread
from tasks.tables.lines import Asked, Runs, breakdown_of, collect, independent_parts
from tasks.tables.spec import Row, Table

__all__ = [
    "breakdown_of",
    "collect",
    "difference",
    "main_lines",
    "markdown",
    "pivot_lines",
    "provenance",
    "render",
    "values_of",
    "write_tables",
]

Record = dict[str, Any]
# What the title of a table says that is none of the published ones.
OWN = " (own runs)"


def values_of(table: Table, records: Sequence[Record], key: str) -> list[float]:
    """A summary's value of each record that has it, in the table's unit."""
    return [table.scale * r["summary"][key] for r in records if key in r["summary"]]


def main_lines(table: Table, runs: Runs, paper: bool) -> Lines:
    """Header and one line a row; the reported columns stand in the paper's table alone."""
    settings = any(row.setting for row in table.rows)
    header = ["network", *([table.setting] if settings else []), "method", *table.columns.values()]
    header += ["seeds"]
    header += ["reported", "independent", "ours - reported"] if paper else []
    lines = [header]
    for row in table.rows:
        records = runs.get(row.key, [])
        line = [row.network, *([row.setting] if settings else []), row.name]
        line += [spread(values_of(table, records, key)) for key in table.columns]
        line += [str(len(records))]
        if paper:
            values = values_of(table, records, table.metric)
            line += [cell(row.reported), cell(row.independent), difference(values, row.reported)]
        lines.append(line)
    return lines


def difference(values: Sequence[float], reported: float | None) -> str:
    """Of our mean from the reported value, with its sign; "" where one of the two is missing."""
    if reported is None or not values:
        return ""
    return f"{statistics.mean(values) - reported:+.1f}"


def pivot_lines(table: Table, runs: Runs, paper: bool) -> Lines:
    """Header and one line a method: the metric in each setting, and its mean over settings.

    The mean stands only where every setting has run, with the seeds that all of them have.
    """
    settings = list(dict.fromkeys(row.setting for row in table.rows))
    lines = [["network", "method", *settings, "average", "seeds"]]
    lines[0] += ["reported average", "ours - reported"] if paper else []
    for rows in methods_of(table):
        by_setting = [runs.get(rows[s].key, []) if s in rows else [] for s in settings]
        row = next(iter(rows.values()))
        line = [row.network, row.name]
        line += [spread(values_of(table, records, table.metric)) for records in by_setting]
        means = averages(table, by_setting)
        counts = sorted({len(records) for records in by_setting})
        line += [spread(means), str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"]
        if paper:
            reported = reported_average(table, rows)
            line += [cell(reported), difference(means, reported)]
        lines.append(line)
    return lines


def methods_of(table: Table) -> list[dict[str, Row]]:
    """The rows of each method and network by their setting."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in table.rows:
        found.setdefault((row.network, row.name), {})[row.setting] = row
    return list(found.values())


def averages(table: Table, by_setting: Sequence[list[Record]]) -> list[float]:
    """The metric's mean over settings, for each seed that every setting has."""
    common = set.intersection(*({r["seed"] for r in records} for records in by_setting))
    own = [{r["seed"]: r["summary"][table.metric] for r in records} for records in by_setting]
    return [table.scale * statistics.mean(each[seed] for each in own) for seed in sorted(common)]


def reported_average(table: Table, rows: dict[str, Row]) -> float | None:
    """Mean of the reported values, where every setting has one."""
    values = [row.reported for row in rows.values() if row.reported is not None]
    whole = len(values) == len({row.setting for row in table.rows})
    return statistics.mean(values) if whole else None


def breakdown_lines(table: Table, runs: Runs, paper: bool) -> Lines:
    """Header and, for each part, our value and the independent reproduction's."""
    parts_of = {key: [breakdown_of(r) for r in records] for key, records in runs.items()}
    names = list(dict.fromkeys(n for parts in parts_of.values() for part in parts for n in part))
    names = [name for name in names if name != "clean"]
    several = len({row.network for row in table.rows}) > 1
    header, columns = [table.breakdown], []
    for row in table.rows:
        title = " ".join(filter(None, (row.network if several else "", row.setting, row.name)))
        parts = parts_of.get(row.key, [])
        if any(parts):
            header.append(title)
            columns.append(
                [spread([table.scale * part[n] for part in parts if n in part]) for n in names]
            )
        if paper and (others := independent_parts(row)):
            header.append(f"{title} (independent)")
            columns.append([f"{others[n]:.1f}" if n in others else "" for n in names])
    return [header, *([n, *cells] for n, *cells in zip(names, *columns, strict=True))]


def provenance(table: Table, runs: Runs) -> str:
    """What the numbers are made from, in a line or two."""
    records = [r for rs in runs.values() for r in rs]

    def each(values: Sequence[Any]) -> str:
        return ", ".join(map(str, sorted(set(values), key=str)))

    units = each([r.get("unit", "images") for r in records])
    prints = each([r["fingerprint"] for r in records])
    counts = each([f"{r['n_train']} training and {r['n_test']} test {units}" for r in records])
    trained = [r for r in records if r["selection"] != PRETRAINED]
    trainers = [r["recipe"].get("trainer", {}) for r in trained]
    length = {
        name: each([t[key] for t in trainers if t.get(key) not in (None, -1)])
        for name, key in (("Epochs", "max_epochs"), ("Steps", "max_steps"))
    }
    text = f"Data: {records[0]['dataset']}, fingerprint {prints}, {counts}. "
    text += "".join(f"{name}: {values}. " for name, values in length.items() if values)
    few = [r for r in records if "n_labelled" in r]
    if few:
        steps = each([(r.get("finished") or {}).get("steps") for r in few])
        draws = each([f"{r['n_labelled']} (draw {r['labelled_draw']})" for r in few])
        text += f"Steps: {steps}. Training images with a label: {draws}. "
    seeds = each([r["seed"] for r in records])
    text += f"Seeds: {seeds}; mean ± standard deviation over seeds, last epoch. "
    given = each([r["checkpoint"] for r in records if r not in trained])
    text += f"Not trained here: {given}. " if given else ""
    tested = list(dict.fromkeys(c for r in records for c in r.get("corruptions", [])))
    if tested:
        text += f"Corruptions, each at 5 severities: {', '.join(tested)}. "
        text += "ECE: 15 bins, of each condition by itself, then the mean as of errors. "
    return text + made_by(records)


def made_by(records: Sequence[Record]) -> str:
    """Commits and machines of the training, and the test's commits where they are others.

    A line that does not say where it was trained, as older ones, has its test's commit alone.
    """

    def each(values: Iterable[str | None], between: str = ", ") -> str:
        return between.join(sorted({value or "unknown" for value in values}))

    commits: list[str | None] = []
    others: list[str | None] = []
    trainings: list[Record] = []
    for record in records:
        tested = record.get("commit")
        own = [e.get("commit") for e in record.get("trained", [{"commit": tested}])]
        commits += own
        others += [tested] if tested not in own else []
        trainings += record.get("trained", [])
    text = f"Commit: {each(commits)}"
    text += f"; tested by {each(others)}" if others else ""
    machines = map(_machine, trainings)
    return text + (f". Trained on: {each(machines, '; ')}." if trainings else ".")


def _machine(environment: Record) -> str | None:
    """What digits depend on beside the code; None where it is not known."""
    names = ("processor", "device", "instructions", "torch", "threads")
    if any(name not in environment for name in names):
        return None
    model, device, instructions, torch, threads = (environment[name] for name in names)
    some = f"{threads} thread{'' if threads == 1 else 's'}"
    return f"{model} ({device}, {instructions}, {some}, torch {torch})"


def render(table: Table, dataset: str, runs: Runs, *, published: bool = False) -> dict[str, str]:
    """The table of one data set as {"md", "tex", "csv"}."""
    paper = dataset == table.dataset and table.compares
    lines = (pivot_lines if table.pivot else main_lines)(table, runs, paper)
    title = table.title if dataset == table.dataset else f"{dataset}: {table.title.split(': ')[-1]}"
    md = f"# {title}{'' if published else OWN}\n\n{markdown(lines)}\n"
    if runs:
        md += f"{provenance(table, runs)}\n"
        # It speaks of the published numbers on the table's own data.
        noted = published and table.note and dataset == table.dataset
        md += f"\n{table.note.strip()}\n" if noted else ""
        parts = breakdown_lines(table, runs, paper)
        if len(parts) > 1:
            md += f"\n## By {table.breakdown}\n\n{markdown(parts)}"
    md += (
        f"\nMade by `python reproduce.py {table.key} {'--publish' if published else '--print'}`.\n"
    )
    return {"md": md, "tex": latex(lines), "csv": comma_separated(lines)}


def write_tables(
    table: Table,
    results: Path,
    *,
    show: bool = True,
    empty: bool = True,
    published: bool = False,
    asked: Asked | None = None,
) -> list[Path]:
    """Write <results>/<table>.{md,tex,csv}, and one more set for each other data set.

    Args:
        table: what to write.
        results: folder of the result lines, and of the tables.
        show: print them too.
        empty: also write the table's own where nothing of it has run.
        published: whether these are the published ones.
        asked: see :func:`tasks.tables.lines.gather`.
    """
    found = collect(table, results, asked)
    if empty:
        found.setdefault(table.dataset, {})
    results.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset, stem in zip(found, _stems(table, list(found)), strict=True):
        runs = found[dataset]
        for suffix, text in render(table, dataset, runs, published=published).items():
            path = results / f"{stem}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
            if suffix == "md" and show:
                print(text)
        if not table.compares and any(breakdown_of(r) for rs in runs.values() for r in rs):
            from tasks.tables.figures import bars_by_part

            source = "" if published else OWN
            written.append(bars_by_part(table, runs, results / f"{stem}.png", source=source))
    return written


def _stems(table: Table, datasets: list[str]) -> list[str]:
    """Names of the data sets' files: with the first part of a set's name, where that tells."""
    short = [_slug(dataset.split(" (")[0]) for dataset in datasets]
    return [
        table.key
        if dataset == table.dataset
        else f"{table.key}_on_{slug if short.count(slug) == 1 else _slug(dataset)}"
        for dataset, slug in zip(datasets, short, strict=True)
    ]


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
