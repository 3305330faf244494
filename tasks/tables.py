"""Tables from results/*.jsonl: Markdown, LaTeX and CSV, our numbers beside the reported ones."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.results import PRETRAINED, is_final, read_results
from tasks.table_spec import Row, Table

__all__ = ["breakdown_of", "collect", "render", "write_tables"]

Record = dict[str, Any]
# The records of each row, by the row's key.
Runs = dict[str, list[Record]]
Lines = list[list[str]]
NOT_AVAILABLE = "not available"
NOT_RUN = "not run"


def _recipe_key(record: Record) -> str:
    recipe = without_seeds(record.get("recipe", {}))
    return json.dumps([recipe, record.get("fingerprint")], sort_keys=True)


def without_seeds(value: Any) -> Any:
    """The same nested options without every seed, so that runs of one recipe compare equal."""
    if isinstance(value, dict):
        seeds = ("seed", "seed_everything")
        return {k: without_seeds(v) for k, v in value.items() if k not in seeds}
    return value


def collect(table: Table, results: Path) -> dict[str, Runs]:
    """Records by data set and row: one for each seed, of the row's newest recipe.

    Lines of an older recipe, and all but the newest line of a seed, are left out.
    """
    rows_by_name = {table.run_name(row): row for row in table.rows}
    found: dict[str, Runs] = {}
    for record in read_results(results / f"{table.task}.jsonl"):
        row = rows_by_name.get(record.get("name", ""))
        complete = {"dataset", "summary", "seed"} <= record.keys()
        if row and complete and is_final(record, table.metric, untrained=row.untrained):
            found.setdefault(record["dataset"], {}).setdefault(row.key, []).append(record)
    for rows in found.values():
        for key, records in rows.items():
            newest = _recipe_key(records[-1])
            by_seed = {r["seed"]: r for r in records if _recipe_key(r) == newest}
            rows[key] = [by_seed[seed] for seed in sorted(by_seed)]
    return found


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds; the value alone where there is one seed."""
    if not values:
        return NOT_RUN
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _values(table: Table, records: Sequence[Record], key: str) -> list[float]:
    return [table.scale * r["summary"][key] for r in records if key in r["summary"]]


def breakdown_of(record: Record) -> dict[str, float]:
    """A record's main value by its parts: mean error of each corruption, or what the task names."""
    if "breakdown" in record:
        return dict(record["breakdown"])
    errors: dict[str, list[float]] = {}
    for condition in record.get("conditions", []):
        errors.setdefault(condition["corruption"], []).append(condition["error"])
    return {name: statistics.mean(values) for name, values in errors.items()}


def _cell(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.1f}"


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
        line += [spread(_values(table, records, key)) for key in table.columns]
        line += [str(len(records))]
        if paper:
            line += [_cell(row.reported), _cell(row.independent), _difference(table, row, records)]
        lines.append(line)
    return lines


def _difference(table: Table, row: Row, records: list[Record]) -> str:
    values = _values(table, records, table.metric)
    if row.reported is None or not values:
        return ""
    return f"{statistics.mean(values) - row.reported:+.1f}"


def pivot_lines(table: Table, runs: Runs, paper: bool) -> Lines:
    """Header and one line a method: the metric in each setting, and its mean over settings.

    The mean stands only where every setting has run, with the seeds that all of them have.
    """
    settings = list(dict.fromkeys(row.setting for row in table.rows))
    methods = dict.fromkeys((row.network, row.name) for row in table.rows)
    lines = [["network", "method", *settings, "average", "seeds"]]
    lines[0] += ["reported average"] if paper else []
    for network, name in methods:
        rows = {r.setting: r for r in table.rows if (r.network, r.name) == (network, name)}
        by_setting = {s: runs.get(rows[s].key, []) if s in rows else [] for s in settings}
        line = [network, name]
        line += [spread(_values(table, by_setting[s], table.metric)) for s in settings]
        common = set.intersection(*({r["seed"] for r in rs} for rs in by_setting.values()))
        means = [
            statistics.mean(
                value
                for records in by_setting.values()
                for value in _values(table, [r for r in records if r["seed"] == seed], table.metric)
            )
            for seed in sorted(common)
        ]
        counts = sorted({len(records) for records in by_setting.values()})
        line += [spread(means), str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"]
        if paper:
            reported = [row.reported for row in rows.values() if row.reported is not None]
            whole = len(reported) == len(settings)
            line += [_cell(statistics.mean(reported) if whole else None)]
        lines.append(line)
    return lines


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
        if paper and row.independent_per_corruption and names:
            header.append(f"{title} (independent)")
            columns.append([f"{value:.1f}" for value in row.independent_per_corruption])
    return [header, *([n, *cells] for n, *cells in zip(names, *columns, strict=False))]


def markdown(lines: Lines) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def latex(lines: Lines) -> str:
    def escape(cell: str) -> str:
        cell = cell.replace("_", r"\_").replace("%", r"\%").replace("→", r"$\to$")
        return cell.replace(" ± ", r" $\pm$ ")

    body = [" & ".join(map(escape, line)) + r" \\" for line in lines]
    columns = "l" * 2 + "r" * (len(lines[0]) - 2)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(lines: Lines) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def provenance(table: Table, runs: Runs) -> str:
    """What the numbers are made from, in a line or two."""
    records = [r for rs in runs.values() for r in rs]

    def each(values: Sequence[Any]) -> str:
        return ", ".join(map(str, sorted(set(values), key=str)))

    units = each([r.get("unit", "images") for r in records])
    prints = each([r["fingerprint"] for r in records])
    counts = each([f"{r['n_train']} training and {r['n_test']} test {units}" for r in records])
    trained = [r for r in records if r.get("selection") != PRETRAINED]
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
        text += f"Corruptions, each at 5 severities: {', '.join(tested)}. ECE: 15 bins. "
    return text + f"Commit: {each([r.get('commit') for r in records])}."


def render(table: Table, dataset: str, runs: Runs) -> dict[str, str]:
    """The table of one data set as {"md", "tex", "csv"}."""
    paper = dataset == table.dataset and table.compares
    lines = (pivot_lines if table.pivot else main_lines)(table, runs, paper)
    title = table.title if dataset == table.dataset else f"{dataset}: {table.title.split(': ')[-1]}"
    md = f"# {title}\n\n{markdown(lines)}\n"
    if runs:
        md += f"{provenance(table, runs)}\n"
        # It speaks of the table's own data.
        md += f"\n{table.note.strip()}\n" if table.note and dataset == table.dataset else ""
        parts = breakdown_lines(table, runs, paper)
        if len(parts) > 1:
            md += f"\n## By {table.breakdown}\n\n{markdown(parts)}"
    md += f"\nMade by `python reproduce.py {table.key} --print`.\n"
    return {"md": md, "tex": latex(lines), "csv": comma_separated(lines)}


def write_tables(table: Table, results: Path) -> list[Path]:
    """Write results/<table>.{md,tex,csv}, one more set for each other data set, and print them."""
    found = collect(table, results)
    found.setdefault(table.dataset, {})
    results.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset, runs in found.items():
        slug = "".join(c if c.isalnum() else "-" for c in dataset.split(" (")[0].lower())
        stem = table.key if dataset == table.dataset else f"{table.key}_on_{slug}"
        for suffix, text in render(table, dataset, runs).items():
            path = results / f"{stem}.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
            if suffix == "md":
                print(text)
        if not table.compares and any(breakdown_of(r) for rs in runs.values() for r in rs):
            from tasks.figures import bars_by_part

            written.append(bars_by_part(table, runs, results / f"{stem}.png"))
    return written
