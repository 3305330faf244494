"""The page of all results: what stands in it, without a browser (test_report_browser has one)."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tasks.report.__main__ import build, main
from tasks.report.charts import Bar, bars, heat_map, reliability_diagram, ticks
from tasks.report.markup import parse_markdown, table, tag
from tasks.report.runs import find_runs, read_curves, thinned
from tests.tasks.report.report_fakes import HOSTILE, bins, write_configs, write_results, write_runs

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects cells, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += attributes
        self.ids += [value or "" for key, value in attributes if key == "id"]
        if name not in VOID:
            self.open.append(name)
        if name == "table":
            self.tables.append([])
        elif name == "tr":
            self.tables[-1].append([])
        elif name in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += attributes

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name, self.getpos()

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.words.append(text)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += text


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    results, configs = write_results(folder / "results"), write_configs(folder / "configs")
    return build(results, [write_runs(folder / "runs")], configs)


def test_the_page_is_well_formed_and_refers_to_nothing_outside(text: str) -> None:
    page = read(text)
    assert len(page.ids) == len(set(page.ids))
    for key, value in page.attributes:
        assert not re.search(r"https?:|^//|url\(", value or ""), (key, value)
        if key in ("src", "href"):
            assert (value or "").startswith(("data:image/webp;base64,", "#")), value
        if key == "href":
            assert (value or "")[1:] in page.ids
    assert "@import" not in text and "url(" not in text
    # What a result line says is text, never a tag.
    assert HOSTILE in "".join(page.words)
    assert text.count("<script>") == 1


def test_its_tables_hold_the_numbers_of_the_result_lines(text: str) -> None:
    tables = read(text).tables
    header = ["network", "method", "clean error", "mean corruption error", "clean ECE"]
    main_table = next(t for t in tables if t[0][:5] == header)
    rows = {line[1]: line for line in main_table[1:]}
    assert main_table[0][5] == "mean corruption ECE" and rows["baseline"][5] == "10.0 ± 0.0"
    # Seeds of 20, 22 and 24 %.
    assert rows["baseline"][3] == "22.0 ± 2.0"
    assert rows["CN"][3] == "11.0 ± 0.0" and rows["SN"][3] == "not run"
    assert "12.5" in rows["CN"]
    own = next(t for t in tables if t[0][0] == "run")
    assert own[1][:4] == [f"{HOSTILE} 0123abcd", "0", "5", "30"]
    assert any(t[1:] == [["a", "1,200"], ["b", "900"]] for t in tables)
    # Means over seeds by corruption and severity, and their differences to the first row's.
    heat = [t for t in tables if t[0] == ["", "1", "2", "3", "4", "5"]]
    assert heat[0][1:] == [[c, "20", "21", "22", "23", "24"] for c in ("fog", "contrast")]
    assert heat[1][1][1:] == ["9", "10", "11", "12", "13"]
    assert heat[2][1][1:] == ["-11"] * 5


def test_what_is_missing_is_said(text: str) -> None:
    words = " ".join(read(text).words)
    assert "Nothing yet: errors in %: not run" in words
    assert "classification.jsonl, line 7 is passed over" in words
    assert "confusion.png cannot be read" in words
    assert "unlabelled images kept by the threshold" in words and "No mask rate" not in words
    # Two numbers, each by its name: the mean of the tables, and that of the diagram's bins.
    assert "pooled ECE in %: clean 2.0, corrupted 20.0" in words
    assert "Pooled ECE: of these bins" in words and "each corrupted condition's" in words


def test_less_input_leaves_parts_out(tmp_path: Path) -> None:
    configs, runs = write_configs(tmp_path / "configs"), write_runs(tmp_path / "runs")
    results = write_results(tmp_path / "results")
    words = " ".join(read(build(results, [], configs)).words)
    assert "No training curves or pictures: no run directories were given." in words
    assert "No embeddings" in words and "train/loss" not in words
    words = " ".join(read(build(tmp_path / "none", [runs], configs)).words)
    assert "train/loss" in words and "mean corruption error" in words
    # A line of a later version, whose conditions are something else.
    lines = (results / "classification.jsonl").read_text().replace('"severity"', '"degree"')
    lines = lines.replace('"reliability"', '"bins"')
    (results / "classification.jsonl").write_text(lines)
    words = " ".join(read(build(results, [], configs)).words)
    assert "Not drawn (corruptions): a line of another version" in words
    assert "No reliability diagrams" in words
    # Lines that nothing can be made from are named, also where there is nothing else.
    (results / "classification.jsonl").write_text(lines + "\n{}\n")
    words = " ".join(read(build(results, [], configs)).words)
    assert "passed over, of another version: name, seed" in words
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "text.jsonl").write_text('{"name": {}}\n')
    with pytest.raises(ValueError, match=r"but found none: .*line 1 is passed over"):
        build(alone, [], configs)


def test_pictures_are_scaled_down_and_the_last_epoch_is_shown(text: str) -> None:
    found = re.findall(r"base64,([^\"]+)", text)
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in found}
    assert sizes == {(1100, 47)} and len(found) == 2
    assert "after epoch 2" in text and "after epoch 1" not in text


def test_curves_go_over_all_starts_of_a_run(tmp_path: Path) -> None:
    runs = {run.task: run for run in find_runs([write_runs(tmp_path / "runs")])}
    run = runs["classification"]
    assert (run.name, run.seed, run.finished) == ("small/Net/baseline", 0, True)
    curves = read_curves(run)
    loss = dict(curves["train/loss"])
    # The half-written line at the end changes nothing; steps done again are the later start's.
    assert loss[10] == 1.9 and loss[90] == 0.25 and loss[100] == 0.5 and len(loss) == 11
    assert [step for step, _ in curves["val/error"]] == [0, 40, 80]
    assert "epoch" not in curves and "step" not in curves
    points = [(float(i), float(i % 7)) for i in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100 and few[0] == (4.5, sum(i % 7 for i in range(10)) / 10)
    assert thinned(points[:50], 100) == points[:50]


def test_of_two_runs_of_a_name_and_seed_the_newer_is_shown(tmp_path: Path) -> None:
    write_runs(tmp_path)
    old = tmp_path / "fixmatch" / "mine" / "seed0-0123abcd"
    new = old.with_name("seed0-ffff")
    (new / "metrics" / "version_0").mkdir(parents=True)
    (new / "config.yaml").write_text("name: mine\n")
    (new / "metrics" / "version_0" / "metrics.csv").write_text("epoch,step,train/loss\n0,1,1\n")
    chosen = [run.path for run in find_runs([tmp_path]) if run.task == "fixmatch"]
    assert chosen == [new.resolve()]


def test_bars_are_as_long_as_their_values() -> None:
    drawn = str(bars("t", [Bar("a", 0, [10.0, 30.0]), Bar("b", 1, [40.0], reported=50.0)]))
    widths = [float(w) for w in re.findall(r"<rect[^>]* width=\"([\d.]+)\"", drawn)]
    assert widths[1] / widths[0] == pytest.approx(2, abs=0.02)
    # Mean 20, standard deviation of 10 and 30.
    assert f"20.0 ± {math.sqrt(200):.1f}" in drawn and ">40.0<" in drawn
    left = float(re.findall(r"<rect x=\"([\d.]+)\"", drawn)[0])
    diamond = float(re.findall(r'd="M([\d.]+) [\d.]+l5 5', drawn)[0])
    assert (diamond - left) / widths[1] == pytest.approx(50 / 40, abs=0.01)


def test_a_reliability_diagram_places_its_bins() -> None:
    drawn = str(reliability_diagram("t", {"clean": bins(0.4)}))
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"', drawn)
    # Only filled bins; the diagonal goes from (40, 196) to (230, 6).
    assert len(dots) == 2
    x, y, radius = map(float, dots[1])
    assert (x - 40) / 190 == pytest.approx(0.98, abs=1e-3)
    assert 1 - (y - 6) / 190 == pytest.approx(0.58, abs=1e-3)
    assert radius == pytest.approx(1.5 + 8 * math.sqrt(0.75), abs=0.06)


def test_heat_maps_shade_from_smallest_to_largest() -> None:
    drawn = str(heat_map("t", {"a_b": {1: 10.0, 2: 30.0, 3: math.nan}}, smallest=10, largest=50))
    assert re.findall(r"--v:(\d+)", drawn) == ["0", "50"] and "a b" in drawn
    signed = str(heat_map("t", {"a": {1: -4.0, 2: 2.0}}, smallest=0, largest=4, signed=True))
    assert ">-4<" in signed and ">+2<" in signed and signed.count("better") == 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.031, 0.032), (-5, 1234), (1, 3), (0, 1e-9)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 9 and all(low - 1e-12 <= t <= high + 1e-12 for t in found)
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    assert ticks(2, 2) == [2]


def test_markdown_and_markup() -> None:
    blocks = parse_markdown(
        "# T\n\n| a | b |\n| --- | --- |\n| 1 | `c` |\n\nOne\ntwo.\n\n## By x\n"
    )
    assert blocks == [
        ("h1", "T"), ("table", [["a", "b"], ["1", "`c`"]]), ("p", "One two."), ("h2", "By x"),
    ]  # fmt: skip
    assert "<code>c</code>" in table([["a"], ["`c`"]])
    assert tag("p", "<b>", title='"', hidden=None) == '<p title="&quot;">&lt;b&gt;</p>'
    assert tag("p", tag("b", "x"), data_view="a") == '<p data-view="a"><b>x</b></p>'


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, configs = write_results(tmp_path / "results"), write_configs(tmp_path / "configs")
    common = ["--configs", str(configs), "--out", str(tmp_path / "out")]
    assert main(["--results", str(tmp_path / "no"), *common]) == 1
    assert "error: Expected results in" in capsys.readouterr().err
    assert main(["--results", str(results), "--runs", str(tmp_path / "no"), *common]) == 1
    assert "Expected `--runs` to be a folder of runs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["--results", str(results), *common]) == 0
    assert "index.html" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["index.html"]


def test_the_repository_s_own_results_make_a_page(root: Path) -> None:
    page = read(build(root / "results", [], root / "configs"))
    assert sum(t[0][:2] == ["network", "method"] for t in page.tables) >= 4
    assert not any("Not drawn" in word for word in page.words)
