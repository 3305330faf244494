from __future__ import annotations

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.engine.results import HELD_OUT, append_result, read_results
from tasks.report.__main__ import build
from tasks.tables.document import write_document
from tasks.tables.lines import gather, stands
from tasks.tables.numbers import breakdown_of, sheets_of
from tasks.tables.render import write_tables
from tasks.tables.spec import Row, Table
from tasks.text import Text

EACH = {"baseline": 0.30, "CN": 0.20}


def record(name: str, seed: int, value: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "dataset": "shapes",
        "fingerprint": "abc",
        "n_train": 10,
        "n_test": 5,
        "selection": "last epoch",
        "recipe": {"seed_everything": seed, "trainer": {"max_epochs": 3}},
        "summary": {"error": value},
        "breakdown": {"round": value - 0.1, "square": value + 0.1},
        "commit": "c0ffee",
        **changes,
    }


def table(**changes: Any) -> Table:
    rows = [Row(name=name, network="Net", reported=100 * e - 1) for name, e in EACH.items()]
    options: dict[str, Any] = {
        "key": "shapes",
        "title": "Shapes: error in %",
        "dataset": "shapes",
        "task": "toy",
        "configs": [],
        "rows": rows,
        "columns": {"error": "error"},
        "metric": "error",
    }
    return Table(**{**options, **changes})


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_numbers_stand_beside_the_reported_ones(tmp_path: Path) -> None:
    values = [0.20, 0.24, 0.31]
    for seed, value in enumerate(values):
        append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", seed, value))
    write_tables(table(), tmp_path)
    baseline, cn = read_csv(tmp_path / "shapes.csv")
    assert baseline["error"] == "not run" and baseline["seeds"] == "0"
    mean, std = 100 * statistics.mean(values), 100 * statistics.stdev(values)
    assert cn["error"] == f"{mean:.1f} ± {std:.1f}" and cn["seeds"] == "3"
    assert cn["reported"] == "19.0" and cn["independent"] == "not available"
    assert cn["ours - reported"] == f"{mean - 19:+.1f}"
    text = (tmp_path / "shapes.md").read_text()
    assert f"| round | {mean - 10:.1f} ± {std:.1f} |" in text and "c0ffee" in text


def test_a_table_says_what_trained_its_numbers(tmp_path: Path) -> None:
    def trained(*commits: str) -> list[dict[str, Any]]:
        machine = {"processor": "EPYC", "device": "x86_64", "instructions": "AVX2", "torch": "2.9"}
        return [{**machine, "threads": 1 + (c == "b"), "commit": c} for c in commits]

    def text(*more: dict[str, Any]) -> str:
        (tmp_path / "toy.jsonl").unlink(missing_ok=True)
        for seed, fields in enumerate(more):
            append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", seed, 0.2, **fields))
        write_tables(table(), tmp_path)
        return (tmp_path / "shapes.md").read_text()

    one = "EPYC (x86_64, AVX2, 1 thread, torch 2.9)"
    assert "last epoch. Commit: c0ffee.\n" in text({})  # as before lines said it
    assert f" Commit: c0ffee. Trained on: {one}.\n" in text({"trained": trained("c0ffee")})
    assert f" Commit: a; tested by c0ffee. Trained on: {one}.\n" in text({"trained": trained("a")})
    resumed = text({}, {"trained": trained("a", "b"), "commit": "b"}, {"trained": [{}]})
    two = one.replace("1 thread", "2 threads")
    # The third line's commit is no training's, although it is the first line's.
    said = f" Commit: a, b, c0ffee, unknown; tested by c0ffee. Trained on: {one}; {two}; unknown.\n"
    assert said in resumed


def test_rows_are_compared_seed_by_seed(tmp_path: Path) -> None:
    for name, values in {"baseline": {0: 0.3, 1: 0.5, 2: 0.4}, "CN": {2: 0.1, 0: 0.2}}.items():
        for seed, value in values.items():
            append_result(tmp_path / "toy.jsonl", record(f"shapes/Net/{name}", seed, value))
    write_tables(table(), tmp_path)
    baseline, cn = read_csv(tmp_path / "shapes.csv")
    title = "error: less baseline, seed by seed (n)"
    # 20 - 30 and 10 - 40: seed 1 is the baseline's alone.
    assert cn[title] == "-20.0 ± 14.1 (2)" and baseline[title] == ""
    text = (tmp_path / "shapes.md").read_text()
    assert "sample standard deviation (n - 1) over seeds; last epoch" in text
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/SN", 0, 0.2))
    rows = [*table().rows, Row(name="SN", network="Net")]
    write_tables(table(rows=rows), tmp_path)
    assert read_csv(tmp_path / "shapes.csv")[2][title] == "-10.0 (1)"
    assert "over seeds; rows of one seed have none;" in (tmp_path / "shapes.md").read_text()


def test_other_corrupted_images_are_another_set(tmp_path: Path) -> None:
    for seed, print_ in enumerate(("a", "b", "b")):
        line = record("shapes/Net/CN", seed, 0.2, corrupted_fingerprint=print_)
        append_result(tmp_path / "toy.jsonl", line)
    append_result(
        tmp_path / "toy.jsonl", record("shapes/Net/CN", 3, 0.2)
    )  # as before lines said it
    (found,) = gather(table(), tmp_path)[0].values()
    assert [r["seed"] for r in found["Net/CN"]] == [0, 1, 2, 3]
    append_result(
        tmp_path / "toy.jsonl", record("shapes/Net/CN", 1, 0.3, corrupted_fingerprint="b")
    )
    (found,) = gather(table(), tmp_path)[0].values()
    assert [r["seed"] for r in found["Net/CN"]] == [1, 2, 3]


def test_a_chosen_epoch_stands_in_tables_that_ask_for_it_and_is_said(tmp_path: Path) -> None:
    chosen = {"selection": HELD_OUT, "held_out": 7, "epoch": 4, "unit": "texts"}
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", 0, 0.2, **chosen))
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", 1, 0.2))
    for checkpoint, seed in (("best", 0), ("last", 1)):
        (found,) = gather(table(checkpoint=checkpoint), tmp_path)[0].values()
        assert [r["seed"] for r in found["Net/CN"]] == [seed]
    write_tables(table(checkpoint="best"), tmp_path)
    said = "; epoch of the fewest errors on 7 held-out training texts (epoch 4). "
    assert said in (tmp_path / "shapes.md").read_text()


def test_few_labels_are_said(tmp_path: Path) -> None:
    draw = {"n_labelled": 4, "labelled_draw": "cafe", "finished": {"steps": 60}}
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", 0, 0.2, **draw))
    write_tables(table(), tmp_path)
    text = (tmp_path / "shapes.md").read_text()
    assert "Steps: 60. Training images with a label: 4 (draw cafe)." in text


def test_only_the_newest_recipe_and_line_of_a_seed_count(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    old = {"recipe": {"seed_everything": 1, "trainer": {"max_epochs": 2}}}
    append_result(path, record("shapes/Net/CN", 1, 0.9, **old))
    append_result(path, record("shapes/Net/CN", 0, 0.8))
    append_result(path, record("shapes/Net/CN", 0, 0.2))
    append_result(path, record("shapes/Net/CN", 5, 0.7, selection="best"))
    (found,) = gather(table(), tmp_path)[0].values()
    assert [(r["seed"], r["summary"]["error"]) for r in found["Net/CN"]] == [(0, 0.2)]


@pytest.mark.parametrize(
    ("options", "changed", "stand"),
    [
        ({"model.norm": "target"}, ["model.norm"], True),
        ({"model.norm": "target"}, ["model.normal"], False),
        ({"model.cnsn": {"kind": "sn"}}, ["model.cnsn.kind"], True),
        ({"data.crop": 8}, ["data.init_args.crop"], True),
        ({"model.network.depth": 8}, ["model.network.init_args.depth"], True),
        ({"data.crop": 8}, ["data.init_args.crop", "data.init_args.resize"], False),
    ],
)
def test_a_row_that_trains_nothing_differs_by_its_options_alone(
    options: dict[str, Any], changed: list[str], stand: bool
) -> None:
    shared = {"data.source": "a"}
    trains = Row(name="baseline", network="Net", options=shared)
    tests = Row(name="T", network="Net", trained_as="baseline", options={**shared, **options})
    line = record("shapes/Net/T", 0, 0.2, selection="last epoch of shapes/Net/baseline")
    own = table(rows=[trains, tests])
    assert stands({**line, "changed": changed}, own, tests) == stand
    assert not stands({**line, "changed": [*changed, "data.source"]}, own, tests)


def test_other_data_never_stand_in_the_paper_table(tmp_path: Path) -> None:
    other = {"dataset": "shapes-subset (4+2 images)"}
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/CN", 0, 0.2, **other))
    write_tables(table(), tmp_path)
    assert all(row["error"] == "not run" for row in read_csv(tmp_path / "shapes.csv"))
    apart = read_csv(tmp_path / "shapes_on_shapes-subset.csv")
    assert apart[1]["error"] == "20.0" and "reported" not in apart[1]


def test_a_damaged_line_is_named_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "toy.jsonl"
    append_result(path, record("shapes/Net/CN", 0, 0.2))
    with path.open("a") as file:
        file.write('{"name": "shapes/Net/CN", "se')
    append_result(path, record("shapes/Net/CN", 1, 0.4))
    with pytest.warns(UserWarning, match="line 2"):
        seeds = [r["seed"] for r in read_results(path)]
    assert seeds == [0, 1]


def test_pivot_averages_over_settings_seed_by_seed(tmp_path: Path) -> None:
    settings = {"A→B": 0.1, "B→A": 0.5}
    rows = [Row(name="CN", network="Net", setting=s, reported=40.0) for s in settings]
    pivot = table(rows=rows, pivot=True)
    for setting, value in settings.items():
        for seed in (0, 1):
            name = f"shapes/Net/{setting}/CN"
            append_result(tmp_path / "toy.jsonl", record(name, seed, value + seed / 10))
    append_result(tmp_path / "toy.jsonl", record("shapes/Net/A→B/CN", 2, 0.9))
    write_tables(pivot, tmp_path)
    (line,) = read_csv(tmp_path / "shapes.csv")
    assert line["average"] == f"35.0 ± {100 * statistics.stdev([0.3, 0.4]):.1f}"
    assert line["seeds"] == "2-3" and line["reported average"] == "40.0"
    assert r"A$\to$B" in (tmp_path / "shapes.tex").read_text()
    (own,) = sheets_of(pivot, tmp_path).values()
    assert [n.difference for n in own.numbers() if n.setting == "average"] == [pytest.approx(-5)]
    other = replace(own, dataset="other")
    assert all(n.reported is n.difference is None for n in other.numbers())


def test_a_new_column_is_a_key_of_the_summary_and_an_entry_of_the_table(tmp_path: Path) -> None:
    """What a task's module logs and a table's file names stands in all that shows the table."""
    text = "columns: {error: error, sharpness: of edges}\nmetric: error\n"
    text += "rows: [{name: CN, network: N}]"
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    path = tmp_path / "configs" / "studies" / "toys.yaml"
    path.write_text(f"title: t\ndataset: shapes\ntask: toy\nconfigs: []\n{text}\n")
    line = record("toys/N/CN", 0, 0.2, summary={"error": 0.2, "sharpness": 0.345})
    append_result(tmp_path / "toy.jsonl", line)
    own = Table.load(path)
    files = [*write_tables(own, tmp_path), *write_document([own], tmp_path)]
    texts = [path.read_text() for path in files if path.suffix in (".md", ".tex", ".csv")]
    texts.append(build(tmp_path, [], tmp_path / "configs"))
    assert len(texts) == 7 and all("of edges" in shown and "34.5" in shown for shown in texts)
    assert texts[-1].count("of edges") == 3  # The column's header, the bars and their label.


def test_breakdown_is_the_mean_over_severities() -> None:
    conditions = [
        {"corruption": c, "severity": s, "error": e}
        for c, s, e in [("clean", 0, 0.1), ("fog", 1, 0.2), ("fog", 2, 0.4)]
    ]
    assert breakdown_of({"conditions": conditions}) == pytest.approx({"clean": 0.1, "fog": 0.3})


def test_table_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    content = {"title": "t", "dataset": "d", "task": "text", "configs": []}
    row = {"name": "CN", "network": "Net"}
    path.write_text(json.dumps({**content, "rows": [row, row]}))
    with pytest.raises(ValueError, match="stand twice"):
        Table.load(path)
    path.write_text(json.dumps({**content, "rows": [row], "metric": "speed"}))
    with pytest.raises(ValueError, match="one of its columns"):
        Table.load(path)
    path.write_text(json.dumps({**content, "rows": [row], "task": "toy"}))
    with pytest.raises(ValueError, match=r"tasks\.toy"):
        Table.load(path)
    # What a file leaves out is its task's.
    path.write_text(json.dumps({**content, "rows": [row]}))
    assert (Table.load(path).columns, Table.load(path).metric) == (Text.COLUMNS, Text.METRIC)


def test_every_table_of_the_project_loads(root: Path) -> None:
    for path in [p for f in ("paper", "studies") for p in (root / "configs" / f).glob("*.yaml")]:
        loaded = Table.load(path)
        files = [*loaded.configs, *(config for row in loaded.rows for config in row.configs)]
        assert all((root / file).is_file() for file in files), path
