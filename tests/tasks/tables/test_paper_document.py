"""The document of all tables, the list of rows, the check, and result lines that are no good."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import reproduce
from data.corruptions.recipes import CORRUPTIONS
from tasks.engine.results import append_result
from tasks.runs.recipe import portable
from tasks.tables import listing as row_states
from tasks.tables.cells import escaped
from tasks.tables.costs import amount, operations_of
from tasks.tables.document import write_document
from tasks.tables.lines import gather
from tasks.tables.listing import describe, row_states_of
from tasks.tables.render import write_tables
from tasks.tables.spec import Row, Table
from tasks.tables.states import Places, Run


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {key: Table.load(path) for key, path in reproduce.TABLES.items()}


def cifar_record(seed: int, mce: float, **changes: Any) -> dict[str, Any]:
    """Of WideResNet-40-2 with CN: errors that grow with the severity around `mce`."""
    conditions = [{"corruption": "clean", "severity": 0, "error": 0.05}] + [
        {"corruption": name, "severity": s, "error": mce + 0.01 * (s - 3) + 0.001 * (i - 7)}
        for i, name in enumerate(CORRUPTIONS)
        for s in range(1, 6)
    ]
    return {
        "name": "cifar10c/WideResNet-40-2/CN",
        "seed": seed,
        "dataset": "CIFAR-10",
        "fingerprint": "f",
        "n_train": 50000,
        "n_test": 10000,
        "selection": "last epoch",
        "recipe": {"seed_everything": seed},
        "summary": {"error": 0.05, "mce": mce, "ece": 0.02, "corrupted_ece": 0.1},
        "conditions": conditions,
        "corruptions": list(CORRUPTIONS),
        "corrupted": "given files",
        **changes,
    }


def rows_of(path: Path, **wanted: str) -> list[dict[str, str]]:
    rows = csv.DictReader(path.read_text().splitlines())
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def section(text: str, title: str) -> str:
    return text.split(f"## {title}")[1].split("\n## ")[0]


def test_the_document_has_every_table_and_number(tmp_path: Path, tables: dict[str, Table]) -> None:
    for seed, value in enumerate((0.20, 0.22, 0.24)):
        append_result(tmp_path / "classification.jsonl", cifar_record(seed, value))
    md, tex, csv_ = write_document(list(tables.values()), tmp_path)
    text = md.read_text()
    for title in ("CIFAR-10-C", "CIFAR-100-C", "ImageNet-C", "FixMatch on CIFAR-10", "Office-31"):
        assert f"## {title}: " in text
    assert "## GTA5 -> Cityscapes: " in text and "## IMDb → SST-2: " in text
    own = section(text, "CIFAR-10-C: ")
    assert "| WideResNet-40-2 | CN | 5.0 ± 0.0 | 22.0 ± 2.0 |" in own
    assert "| 3 | 21.6 | 21.4 | +0.4 |" in own
    # Fifteen columns: ours, and the independent reproduction's below.
    ours = next(x for x in own.splitlines() if x.startswith("| WideResNet-40-2 | CN | ours |"))
    assert ours.count("±") == 15 and "| 21.3 ± 2.0 |" in ours
    others = next(x for x in own.splitlines() if "| CN | independent |" in x)
    assert others.split(" | ")[3:6] == ["44.5", "34.4", "36.8"]
    assert "not available" in section(text, "Office-31: ")
    (line,) = rows_of(
        csv_, table="cifar10c", network="WideResNet-40-2", method="CN",
        quantity="mean corruption error",
    )  # fmt: skip
    assert (line["mean"], line["std"], line["n"]) == ("22.0000", "2.0000", "3")
    assert (line["reported"], line["ours - reported"]) == ("21.6000", "+0.4000")
    parts = rows_of(csv_, table="cifar10c", network="WideResNet-40-2", method="CN")
    assert sum(row["quantity"].startswith("corruption: ") for row in parts) == 15
    latex = tex.read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") >= 9
    assert latex.count("{") == latex.count("}") and r"22.0 $\pm$ 2.0" in latex


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "cifar10-subset (4829+932 images)"},
        {"corrupted": "data.corruptions, generator 1, seed 0"},
        {"corrupted": None, "corruptions_made_with": "data.corruptions"},
    ],
)
def test_other_data_have_a_table_of_their_own(
    tmp_path: Path, tables: dict[str, Table], changes: dict[str, Any]
) -> None:
    append_result(tmp_path / "classification.jsonl", cifar_record(0, 0.2, **changes))
    md, _, csv_ = write_document(list(tables.values()), tmp_path)
    papers, others = md.read_text().split("# Other data")
    assert "| WideResNet-40-2 | CN | not run |" in section(papers, "CIFAR-10-C: ")
    assert "20.0" in others and "reported" not in others.split("\n", 4)[4]
    (line,) = rows_of(csv_, method="CN", quantity="mean corruption error", n="1")
    assert line["dataset"] != "CIFAR-10" and line["reported"] == line["ours - reported"] == ""
    assert reproduce.compared([tables["cifar10c"]], tmp_path) == []


@pytest.mark.parametrize(
    ("mce", "tolerance", "code"),
    [(0.22, 0.5, 0), (0.22, 0.3, 1), (0.20, 0.5, 1), (math.nan, 99, 0), (None, 0.0, 0)],
)
def test_check(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mce: float | None,
    tolerance: float,
    code: int,
) -> None:
    """CN's reported value on CIFAR-10-C is 21.6. What has no value has not run."""
    if mce is not None:
        append_result(tmp_path / "classification.jsonl", cifar_record(0, mce))
    command = ["cifar10c", "--check", str(tolerance), "--results", str(tmp_path)]
    assert reproduce.main(command) == code
    said = capsys.readouterr().out
    nothing = mce is None or math.isnan(mce)
    expected = "Nothing to check" if nothing else ("misses" if code else "agrees")
    assert f"{expected}" in said.splitlines()[-1]


def test_bad_lines_are_named_and_passed_over(
    tmp_path: Path, tables: dict[str, Table], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "classification.jsonl"
    good = cifar_record(0, 0.3)
    append_result(path, good)
    append_result(path, cifar_record(0, 0.2))
    with path.open("ab") as file:
        file.write(b'{"name": "\xff\xfe"}\n[1, 2]\n')
        file.write(json.dumps(good | {"format": 99}).encode() + b"\n")
        old = {k: v for k, v in good.items() if k not in ("fingerprint", "recipe")}
        file.write(json.dumps(old).encode() + b"\n")
        file.write(json.dumps(good | {"summary": {"mce": "low"}}).encode() + b"\n")
        file.write(json.dumps(good).encode()[:200])
    found, notes = gather(tables["cifar10c"], tmp_path)
    (runs,) = found.values()
    assert [r["summary"]["mce"] for r in runs["WideResNet-40-2/CN"]] == [0.2]
    text = "\n".join(notes)
    for number, why in ((3, "damaged"), (4, "got list"), (5, "format is 99"), (8, "damaged")):
        assert f"line {number} is passed over" in text and why in text
    assert "line 6 is passed over, of another version: fingerprint, recipe missing" in text
    assert "mce in its summary is no number" in text
    assert "line 1 is of a run that has a newer line, which counts; the values of 1 differ" in text
    # The command says so too, and goes on.
    assert reproduce.main(["cifar10c", "--print", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "note: " in said.err and "line 5" in said.err and "| CN | 5.0 | 20.0 |" in said.out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conditions", "none"),
        ("conditions", [{"degree": 1}]),
        ("breakdown", [1]),
        ("breakdown", {"fog": "low"}),
        ("corruptions", [{"name": "fog"}]),
        ("commit", {"id": 1}),
        ("finished", {"seconds": "long"}),
        ("n_labelled", 40),
        ("labelled_draw", "1a"),
        ("recipe", {"trainer": None}),
        ("trained", {"commit": "a"}),
        ("trained", [{"commit": 1}]),
    ],
)
def test_a_line_that_no_table_can_be_made_from_hides_no_other(
    tmp_path: Path, tables: dict[str, Table], field: str, value: object
) -> None:
    append_result(tmp_path / "classification.jsonl", cifar_record(0, 0.2))
    append_result(tmp_path / "classification.jsonl", cifar_record(1, 0.3, **{field: value}))
    places = Places(runs=tmp_path / "runs", results=tmp_path)
    table = tables["cifar10c"]
    assert len(row_states_of(table, table.rows, 2, places)) == len(table.rows)
    write_document([table], tmp_path)
    assert "| CN | 5.0 | 20.0 |" in (tmp_path / "tables.md").read_text()
    (note,) = gather(table, tmp_path)[1]
    assert "line 2 is passed over, of another version" in note
    assert (field if field != "n_labelled" else "labelled_draw") in note


def test_an_older_recipe_is_said(tmp_path: Path, tables: dict[str, Table]) -> None:
    path = tmp_path / "classification.jsonl"
    append_result(path, cifar_record(0, 0.3, recipe={"trainer": {"max_epochs": 1}}))
    append_result(path, cifar_record(1, 0.2))
    found, notes = gather(tables["cifar10c"], tmp_path)
    assert [r["seed"] for r in found["CIFAR-10"]["WideResNet-40-2/CN"]] == [1]
    assert len(notes) == 1 and "line 1 is of another recipe" in notes[0]


def test_no_results_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "none"
    assert reproduce.main(["all", "--print", "--results", str(place)]) == 0
    assert "holds no results yet" in capsys.readouterr().err
    assert sorted(p.name for p in place.iterdir()) == ["tables.csv", "tables.md", "tables.tex"]
    assert "# Other data" not in (place / "tables.md").read_text()


def test_two_sets_with_names_that_begin_alike_have_two_files(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    for n in (10, 20):
        record = cifar_record(0, n / 100, dataset=f"cifar10-subset ({n}+5 images)")
        append_result(tmp_path / "classification.jsonl", record)
    write_tables(tables["cifar10c"], tmp_path)
    texts = [p.read_text() for p in tmp_path.glob("cifar10c_on_*.md")]
    assert len(texts) == 2 and sum("| 5.0 | 10.0 |" in text for text in texts) == 1


def test_parts_align_by_name_not_by_place(tmp_path: Path, tables: dict[str, Table]) -> None:
    record = cifar_record(0, 0.2)
    record["conditions"] = list(reversed(record["conditions"]))
    append_result(tmp_path / "classification.jsonl", record)
    md = next(p for p in write_tables(tables["cifar10c"], tmp_path) if p.suffix == ".md")
    lines = [x for x in md.read_text().splitlines() if x.startswith("| fog |")]
    header = next(x for x in md.read_text().splitlines() if x.startswith("| corruption |"))
    place = header.split(" | ").index("WideResNet-40-2 CN (independent)")
    assert lines[0].split(" | ")[place] == "9.6"


# Where rows stand.


def toy_table() -> Table:
    rows = [Row(name=name, network="Net", reported=50.0) for name in ("CN", "SN")]
    return Table(
        key="toys",
        title="t",
        dataset="d",
        task="toy",
        configs=[],
        rows=rows,
        metric="mce",
        paper=True,
    )


def test_the_list_says_where_every_row_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = toy_table()
    places = Places(runs=tmp_path / "runs", results=tmp_path / "results")
    asked: list[str] = []

    def recipe(run: Run) -> dict[str, Any]:
        asked.append(run.row.name)
        return {"seed_everything": run.seed, "model": {}, "data": {}, "trainer": {"max_epochs": 3}}

    monkeypatch.setattr(Run, "recipe", recipe)
    monkeypatch.setattr(Run, "given_data", lambda run: None)
    monkeypatch.setattr(row_states, "operations_of", lambda *_: 5e17)

    def listed() -> dict[str, str]:
        states = row_states_of(table, table.rows, 3, places)
        return {state.row.name: describe(state, table, 10) for state in states}

    assert all("not run  " in line for line in listed().values()) and asked == []
    stored = recipe(Run(table=table, row=table.rows[0], seed=0, places=places))
    asked.clear()
    record = cifar_record(0, 0.5, name="toys/Net/CN", dataset="d", recipe=portable(stored))
    record |= {"finished": {"seconds": 7200.0}, "device": "GPU"}
    append_result(places.results / "toy.jsonl", record)
    other = {**stored, "trainer": {"max_epochs": 1}}
    append_result(places.results / "toy.jsonl", record | {"seed": 2, "recipe": other})
    second = Run(table=table, row=table.rows[0], seed=1, places=places)
    second.directory.mkdir(parents=True)
    line = listed()["CN"]
    assert "done 1 seed, partial 1 seed, not run 1 seed, 1 of another recipe" in line
    assert "cost: 0.5 EFLOP, 14 h (took 2.0 h on GPU)" in line
    assert "reported: 50.0" in line and line.endswith("on: d")
    assert "SN" not in asked
    second.failure.parent.mkdir(parents=True)
    second.failure.touch()
    assert "failed 1 seed" in listed()["CN"]
    with second.lock():
        assert "running 1 seed" in listed()["CN"]


def test_costs_are_those_of_the_arithmetic(tables: dict[str, Table]) -> None:
    """Against the published sizes: ResNet-50 has 4.1 GMAC at 224 pixels, WideResNet-40-2 0.33."""
    costs = {
        (key, row.network, row.name): operations_of(tables[key], row)
        for key in ("imagenetc", "cifar10c")
        for row in tables[key].rows
    }
    base = costs["imagenetc", "ResNet-50", "SN"]
    assert base == pytest.approx(90 * 1281167 * 3 * 2 * 4.1e9, rel=0.02)
    assert costs["imagenetc", "ResNet-50", "CNSN+consistency"] == pytest.approx(2 * base)
    assert costs["imagenetc", "ResNet-50", "AugMix"] == pytest.approx(2 * 3 * base)
    small = costs["cifar10c", "WideResNet-40-2", "baseline"]
    assert small == pytest.approx(100 * 50000 * 3 * 2 * 0.33e9, rel=0.03)
    for method, factor in (("adversarial training", 8), ("CNSN+AugMix", 4.5), ("CN", 1)):
        assert costs["cifar10c", "WideResNet-40-2", method] == pytest.approx(factor * small)
    assert amount(2.5e18, 10) == "2.5 EFLOP, 69 h" and amount(3e13, 10) == "30 TFLOP"


def test_every_row_has_a_cost(tables: dict[str, Table]) -> None:
    for table in tables.values():
        networks = {(row.network, row.setting): row for row in table.rows}
        costs = [operations_of(table, row) for row in networks.values() if not row.untrained]
        assert all(costs), table.key


def test_latex_is_escaped() -> None:
    assert escaped("a_b & 5 % -> ± {x}") == r"a\_b \& 5 \% $\to$ $\pm$ \{x\}"


def test_results_of_the_repository_are_readable(root: Path, tmp_path: Path) -> None:
    for path in (root / "results").glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    for path in reproduce.TABLES.values():
        _, notes = gather(Table.load(path), tmp_path)
        assert not [note for note in notes if "passed over" in note]
    assert gather(Table.load(reproduce.TABLES["quickstart"]), tmp_path)[0]
