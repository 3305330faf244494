"""Tables from results/*.jsonl: Markdown, LaTeX and CSV, our numbers beside the reported ones."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.results import read_results

__all__ = ["collect", "render", "write_tables"]

Record = dict[str, Any]
NOT_AVAILABLE = "not available"
NOT_RUN = "not run"


class RowLike(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def network(self) -> str: ...
    @property
    def reported(self) -> float | None: ...
    @property
    def independent(self) -> float | None: ...
    @property
    def independent_per_corruption(self) -> list[float] | None: ...


class TableLike(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def dataset(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def rows(self) -> Sequence[RowLike]: ...


def _recipe_key(record: Record) -> str:
    recipe = without_seeds(record.get("recipe", {}))
    return json.dumps([recipe, record.get("fingerprint")], sort_keys=True)


def without_seeds(value: Any) -> Any:
    """The same nested options without every seed, so that runs of one recipe compare equal."""
    if isinstance(value, dict):
        seeds = ("seed", "seed_everything")
        return {k: without_seeds(v) for k, v in value.items() if k not in seeds}
    return value


def collect(table: TableLike, results: Path) -> dict[str, dict[str, list[Record]]]:
    """Records by data set and row: one for each seed, of the row's newest recipe.

    Lines of an older recipe, and all but the newest line of a seed, are left out.
    """
    names = {f"{table.key}/{row.network}/{row.name}".replace(" ", "_"): row for row in table.rows}
    found: dict[str, dict[str, list[Record]]] = {}
    for record in read_results(results / f"{table.task}.jsonl"):
        row = names.get(record.get("name", ""))
        complete = {"dataset", "summary", "seed", "conditions"} <= record.keys()
        if row is not None and complete and record.get("selection") == "last epoch":
            rows = found.setdefault(record["dataset"], {})
            rows.setdefault(f"{row.network}/{row.name}", []).append(record)
    for rows in found.values():
        for key, records in rows.items():
            newest = _recipe_key(records[-1])
            by_seed = {r["seed"]: r for r in records if _recipe_key(r) == newest}
            rows[key] = [by_seed[seed] for seed in sorted(by_seed)]
    return found


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds; the value alone where there is one seed."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _percent(records: list[Record], key: str) -> str:
    values = [100 * r["summary"][key] for r in records if key in r["summary"]]
    return spread(values) if values else NOT_RUN


def _corruption_means(records: list[Record], corruption: str) -> list[float]:
    means = []
    for record in records:
        errors = [c["error"] for c in record["conditions"] if c["corruption"] == corruption]
        if errors:
            means.append(100 * sum(errors) / len(errors))
    return means


def _cell(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else f"{value:.1f}"


def main_rows(table: TableLike, runs: dict[str, list[Record]], paper: bool) -> list[list[str]]:
    """Header and one line a row; the reported columns stand in the paper's table alone."""
    header = ["network", "method", "clean error", "mean corruption error"]
    header += ["clean ECE", "corrupted ECE", "seeds"]
    header += ["reported", "independent", "ours - reported"] if paper else []
    lines = [header]
    for row in table.rows:
        records = runs.get(f"{row.network}/{row.name}", [])
        measured = (
            [_percent(records, key) for key in ("error", "mce", "ece", "corrupted_ece")]
            if records
            else [NOT_RUN] * 4
        )
        line = [row.network, row.name, *measured, str(len(records))]
        if paper:
            line += [_cell(row.reported), _cell(row.independent), _difference(row, records)]
        lines.append(line)
    return lines


def _difference(row: RowLike, records: list[Record]) -> str:
    values = [100 * r["summary"]["mce"] for r in records if "mce" in r["summary"]]
    if row.reported is None or not values:
        return ""
    return f"{statistics.mean(values) - row.reported:+.1f}"


def corruption_rows(
    table: TableLike, runs: dict[str, list[Record]], paper: bool
) -> list[list[str]]:
    """Header and, for each corruption, our error and the independent reproduction's."""
    tested = list(dict.fromkeys(c for rs in runs.values() for r in rs for c in r["corruptions"]))
    header, columns = ["corruption"], []
    for row in table.rows:
        records = runs.get(f"{row.network}/{row.name}", [])
        if records:
            header.append(row.name)
            columns.append(
                [spread(_corruption_means(records, c) or [float("nan")]) for c in tested]
            )
        if paper and row.independent_per_corruption:
            header.append(f"{row.name} (independent)")
            columns.append([f"{value:.1f}" for value in row.independent_per_corruption])
    return [header, *([c, *cells] for c, *cells in zip(tested, *columns, strict=False))]


def markdown(lines: list[list[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]]) + "\n"


def latex(lines: list[list[str]]) -> str:
    def escape(cell: str) -> str:
        cell = cell.replace("_", r"\_").replace("%", r"\%")
        return cell.replace(" ± ", r" $\pm$ ")

    body = [" & ".join(map(escape, line)) + r" \\" for line in lines]
    columns = "l" * 2 + "r" * (len(lines[0]) - 2)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def comma_separated(lines: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def provenance(runs: dict[str, list[Record]]) -> str:
    """What the numbers are made from, in a line or two."""
    records = [r for rs in runs.values() for r in rs]
    first = records[0]
    epochs = sorted({r["recipe"]["trainer"].get("max_epochs") for r in records}, key=str)
    seeds = sorted({r["seed"] for r in records})
    corruptions = ", ".join(first["corruptions"])
    commits = ", ".join(sorted({str(r.get("commit")) for r in records}))
    return (
        f"Data: {first['dataset']}, fingerprint {first['fingerprint']}, {first['n_train']} "
        f"training and {first['n_test']} test images. Epochs: {', '.join(map(str, epochs))}. "
        f"Seeds: {', '.join(map(str, seeds))}; mean ± standard deviation over seeds, last epoch. "
        f"Corruptions, each at 5 severities: {corruptions}. ECE: 15 bins. Commit: {commits}."
    )


def render(table: TableLike, dataset: str, runs: dict[str, list[Record]]) -> dict[str, str]:
    """The table of one data set as {"md", "tex", "csv"}."""
    paper = dataset == table.dataset and any(row.reported is not None for row in table.rows)
    lines = main_rows(table, runs, paper)
    title = table.title if dataset == table.dataset else f"{dataset}: errors in %"
    md = f"# {title}\n\n{markdown(lines)}\n"
    if runs:
        by_corruption = corruption_rows(table, runs, paper)
        md += f"{provenance(runs)}\n\n## By corruption\n\n{markdown(by_corruption)}"
    md += f"\nMade by `python reproduce.py {table.key} --print`.\n"
    return {"md": md, "tex": latex(lines), "csv": comma_separated(lines)}


def write_tables(table: TableLike, results: Path) -> list[Path]:
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
        if runs and not any(row.reported for row in table.rows):
            from tasks.figures import errors_by_corruption

            written.append(errors_by_corruption(table, runs, results / f"{stem}.png"))
    return written
