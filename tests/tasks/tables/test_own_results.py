"""A user's own results and the published ones: apart, side by side, and published when asked."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

import reproduce
from tasks.classification import Classification
from tasks.engine.results import append_result, read_results
from tasks.report.__main__ import build
from tasks.tables.agreement import LEVEL, agreement, chance
from tasks.tables.lines import gather
from tasks.tables.numbers import Sheet
from tasks.tables.own import asked_of, publish_tables, show
from tasks.tables.spec import Row, Table
from tasks.tables.states import Places, Run, _roots
from tasks.tables.time_left import TimeLeft
from tests.tasks.report.report_fakes import record, write_configs

RECIPE = {"trainer": {"max_epochs": 2}, "model": {}, "data": {"init_args": {}}}


def table() -> Table:
    rows = [Row(name=name, network="Net") for name in ("baseline", "CN")]
    return Table(
        key="small", title="Small: errors", dataset="small set", task="classification",
        configs=[], rows=rows, note="Of what is published.",
        columns=dict(Classification.COLUMNS), metric=Classification.METRIC,
    )  # fmt: skip


def line(name: str, seed: int, mce: float, **changes: Any) -> dict[str, Any]:
    return {**record(f"small/Net/{name}", seed, mce), "recipe": RECIPE, **changes}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Three published seeds of a row; here two of them with other values, and one more."""
    monkeypatch.setattr(Run, "recipe", lambda run: RECIPE)
    where = Places(
        runs=tmp_path / "runs", results=tmp_path / "own", published=tmp_path / "published"
    )
    for seed, value in enumerate((0.20, 0.22, 0.24)):
        append_result(where.published / "classification.jsonl", line("CN", seed, value))
    for seed, value in ((1, 0.40), (2, 0.42), (3, 0.44)):
        own = line("CN", seed, value, time="2026-02-02T00:00:00+00:00")
        append_result(where.results / "classification.jsonl", own)
    return where


def test_own_seeds_hide_no_published_ones(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in places.published.iterdir()}
    show(table(), places, started="2026-02-02T00:00:00+00:00")
    own, theirs = capsys.readouterr().out.split("Published, not made here:")
    assert "# Small: errors (own runs)" in own and "| CN | 5.0 ± 0.0 | 42.0 ± 2.0 |" in own
    assert "Fresh: 3 of the 3 results of this table were made here just now" in own
    assert "Of what is published." in theirs and "Of what is published." not in own
    assert "| CN | 5.0 ± 0.0 | 22.0 ± 2.0 |" in theirs
    assert "| CN | 42.0 ± 2.0 | 22.0 ± 2.0 | +20.0 | NO |" in theirs
    assert "Own and published numbers agree in 0 of 1 rows" in theirs
    assert {path.name: path.read_bytes() for path in places.published.iterdir()} == before
    assert "(own runs)" in (places.results / "small.md").read_text()
    show(table(), places, started="2026-03-03T00:00:00+00:00")
    assert "nothing new ran" in capsys.readouterr().out


def test_publishing_is_asked_for_and_adds_each_line_once(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    for added in (3, 0):
        publish_tables([table()], [table()], places)
        assert f"small: {added} lines added" in capsys.readouterr().out
    path = places.published / "classification.jsonl"
    assert len(list(read_results(path))) == 6
    text = (places.published / "small.md").read_text()
    # The seeds of both; of one that both have, the line that was added last.
    assert "| CN | 5.0 ± 0.0 |" in text and "| 4 |" in text and "own runs" not in text
    assert (places.published / "tables.csv").is_file()
    assert not (places.results / "small.md").exists()


def test_the_asked_recipe_stands_before_a_newer_one(places: Places) -> None:
    """A short run of the same rows takes no place in the table of the whole ones."""
    short = {**RECIPE, "trainer": {"max_epochs": 1}}
    append_result(places.results / "classification.jsonl", line("CN", 0, 0.9, recipe=short))
    for asked, seeds in ((asked_of(places)(table()), [1, 2, 3]), (None, [0])):
        (runs,) = gather(table(), places.results, asked)[0].values()
        assert [r["seed"] for r in runs["Net/CN"]] == seeds


def test_the_data_that_are_given_stand_before_newer_ones(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table as for the runner."""
    path = places.results / "classification.jsonl"
    append_result(path, line("CN", 1, 0.9, fingerprint="others"))
    for given, values in (("others", [0.9]), (None, [0.9])):
        data = None if given is None else {"fingerprint": given, "n_train": 1}
        monkeypatch.setattr(Run, "given_data", lambda run, data=data: data)
        (runs,) = gather(table(), places.results, asked_of(places)(table()))[0].values()
        assert [r["summary"]["mce"] for r in runs["Net/CN"]] == values
    first = next(iter(read_results(path)))
    given = {"fingerprint": first["fingerprint"], "n_train": 1}
    monkeypatch.setattr(Run, "given_data", lambda run: given)
    (runs,) = gather(table(), places.results, asked_of(places)(table()))[0].values()
    assert [r["seed"] for r in runs["Net/CN"]] == [1, 2, 3]


def test_published_lines_are_those_that_were_written(places: Places) -> None:
    """With what has no value."""
    path = places.results / "classification.jsonl"
    own = line("CN", 1, 0.42, summary={"error": 0.05, "mce": 0.42, "other": None})
    append_result(path, own)
    publish_tables([table()], [table()], places)
    written = (places.published / path.name).read_text().splitlines()
    assert json.dumps(own, sort_keys=True) in written


def test_the_page_has_both(places: Places, tmp_path: Path) -> None:
    text = build(places.results, [], write_configs(tmp_path / "configs"), places.published)
    assert text.count("(own runs)</h2>") == text.count("(published)</h2>") == 1
    assert "42.0" in text and "22.0" in text


def test_chance_is_that_of_the_t_test() -> None:
    """Against SciPy's own test of two samples."""
    one, other = [27.5, 25.8, 29.2], [24.1, 23.0, 24.9, 22.2]
    expected = stats.ttest_ind(one, other).pvalue
    assert chance(one, other) == pytest.approx(expected, rel=1e-12) and expected > LEVEL
    assert chance([1.0, 1.0], [1.0]) == 1.0 and chance([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert chance([1.0], [2.0]) is None


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "yes"),
        ({"fingerprint": "e0e0"}, "other data"),
        ({"recipe": {**RECIPE, "trainer": {"max_epochs": 1}}}, "another recipe"),
        ({"mean_over": "classes in truth or prediction"}, "another definition"),
    ],
)
def test_only_like_is_compared(changes: dict[str, Any], verdict: str) -> None:
    published = {"Net/CN": [line("CN", seed, 0.2 + seed / 100) for seed in range(3)]}
    mine = {"Net/CN": [line("CN", seed, 0.21 + seed / 100, **changes) for seed in range(3)]}
    own, theirs = (Sheet(table=table(), dataset="small set", runs=r) for r in (mine, published))
    lines, sentence = agreement(own, theirs)
    assert lines[1] == ["CN", "22.0 ± 1.0", "21.0 ± 1.0", "+1.0", verdict]
    assert ("agree:" in sentence) == (verdict == "yes")


def test_values_of_two_definitions_are_not_averaged(tmp_path: Path) -> None:
    """A mean IoU by the older one, and by that of Cityscapes' scripts."""
    definitions: list[dict[str, Any]] = [{}, {"mean_over": "classes in truth or prediction"}]
    for seed, more in enumerate(definitions):
        append_result(tmp_path / "classification.jsonl", line("CN", seed, 0.2, **more))
    found, notes = gather(table(), tmp_path)
    assert [record["seed"] for record in found["small set"]["Net/CN"]] == [1]
    assert len(notes) == 1 and "line 1 is" in notes[0] and "another definition" in notes[0]


def test_time_left() -> None:
    """Fifteen runs of 30 s by two workers."""
    now = 0.0
    ahead = TimeLeft(15, 2, clock=lambda: now)
    ahead.start("a")
    ahead.start("b")
    now = 20.0
    waiting = "0 of 15 runs ended, 2 running for 20 s; time left is known after the first"
    assert str(ahead) == waiting
    now = 30.0
    for run in "ab":
        ahead.end(run, counts=True)
    assert ahead.seconds() == pytest.approx(13 * 30 / 2) and "about 3 min left" in str(ahead)
    ahead.start("c")
    now = 40.0
    assert ahead.seconds() == pytest.approx((13 * 30 - 10) / 2)
    # One that was refused at once says nothing of the others.
    ahead.end("c", counts=False)
    assert ahead.seconds() == pytest.approx(12 * 30 / 2)


def test_what_has_not_changed_is_said_less_and_less_often() -> None:
    said: list[float] = []
    begun = time.monotonic()
    with TimeLeft(2, 1).beating(lambda _: said.append(time.monotonic() - begun), every=0.02):
        while len(said) < 4:
            time.sleep(0.01)
    pauses = [b - a for a, b in itertools.pairwise(said)]
    # At least: a busy machine may add to each.
    assert all(pause > 0.018 * 2**n for n, pause in enumerate(pauses, start=1))


def test_options_that_a_task_refuses_are_a_state_of_their_row() -> None:
    vectors = Table.load(reproduce.TABLES["imdb_vectors"])
    run = Run(table=vectors, row=vectors.rows[0], seed=0, places=Places(root="/sets"))
    assert run.recipe() is None and run.state({}) == "refused", "frozen, without word vectors"


def test_the_root_goes_to_the_options_that_take_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text row has two folders of data and no `root`."""
    monkeypatch.chdir(root)
    sst2 = Table.load(reproduce.TABLES["sst2"])
    run = Run(table=sst2, row=sst2.rows[0], seed=0, places=Places(root="/sets"))
    parsed = run._parsed()
    assert parsed is not None and {"--data.imdb=/sets", "--data.sst2=/sets"} <= {*run.arguments()}
    data = parsed[1]["data"]["init_args"]
    assert data["imdb"] == data["sst2"] == "/sets"
    others = [Table.load(path) for path in reproduce.TABLES.values()]
    assert {_roots(each) for each in others if each.task != "text"} == {("root",)}


def test_lines_of_a_folder_that_is_published_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["quickstart", "--results", str(root / "results")])
    assert "--publish" in capsys.readouterr().err
    assert json.dumps(str(Places().results)) == '"runs/results"'
