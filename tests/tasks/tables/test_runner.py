from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import reproduce
from cnsn.nets import wide_resnet
from tasks.engine.results import append_result, read_results
from tasks.runs.recipe import portable
from tasks.tables import runner
from tasks.tables.cells import document
from tasks.tables.numbers import Sheet, sheets_of
from tasks.tables.render import blocks_of
from tasks.tables.runner import Places, Run, row_states, run_all, runs_of
from tasks.tables.spec import Row, Table

# Appends to a file, and fails while a file of that name counts down.
SCRIPT = """
import pathlib, sys
folder, title, row, seed = sys.argv[1:]
name = title.partition(", ")[0]
left = pathlib.Path(folder, "failures")
n = int(left.read_text()) if left.exists() else 0
with open(pathlib.Path(folder, "attempts"), "a") as file:
    file.write(title + "\\n")
if n:
    left.write_text(str(n - 1))
    sys.exit(n if n in (2, 66) else 1)
sys.path.insert(0, ".")
from tasks.engine.results import append_result
record = {"name": name, "seed": int(seed), "dataset": "d"}
record |= {"fingerprint": "f", "n_train": 2, "n_test": 1}
record |= {"recipe": {"model": {"row": row}, "data": {"init_args": {}}}}
record |= {"selection": "last epoch", "summary": {"mce": 0.5}}
append_result(pathlib.Path(folder, "results", "toy.jsonl"), record)
"""
FINAL = {
    "dataset": "d",
    "fingerprint": "f",
    "n_train": 2,
    "n_test": 1,
    "recipe": {"model": {"row": "CN"}, "data": {"init_args": {}}},
    "selection": "last epoch",
    "summary": {"mce": 0.5},
}


def recipe(run: Run) -> dict[str, Any]:
    return {"seed_everything": run.seed, "model": {"row": run.row.name}, "data": {}}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two rows with two seeds of a task that leaves a result line in no time."""

    def commands(run: Run) -> list[list[str]]:
        arguments = [str(tmp_path), run.title, run.row.name, str(run.seed)]
        return [[sys.executable, "-c", SCRIPT, *arguments]]

    monkeypatch.setattr(Run, "commands", commands)
    monkeypatch.setattr(Run, "recipe", recipe)
    monkeypatch.setattr(Run, "given_data", lambda run: None)
    rows = [Row(name=name, network="Net") for name in ("CN", "SN")]
    table = Table(
        key="toys", title="t", dataset="d", task="toy", configs=[], rows=rows, metric="mce"
    )
    places = Places(runs=tmp_path / "runs", results=tmp_path / "results")
    return runs_of(table, rows, 2, places)


def attempts(folder: Path) -> list[str]:
    path = folder / "attempts"
    return path.read_text().splitlines() if path.exists() else []


def states(runs: list[Run]) -> list[str]:
    return [state for _, state in row_states(runs)]


def test_only_what_is_missing_runs(tmp_path: Path, runs: list[Run]) -> None:
    final = FINAL | {"seed": 0, "name": "toys/Net/CN"}
    for record in (
        final | {"name": "toys/Net/SN", "recipe": recipe(runs[1]) | {"data": {"init_args": {}}}},
        # None of these is a result of the row.
        final | {"name": "others/Net/CN"},
        final | {"recipe": {"model": {"row": "SN"}, "data": {"init_args": {}}}},
        final | {"fingerprint": None},
        final | {"selection": "unfinished run"},
        final | {"limited": 0.1},
        final | {"summary": {"error": 0.5, "partial_mce": 0.5}},
    ):
        append_result(tmp_path / "results" / "toy.jsonl", record)
    assert states(runs) == ["not run", "done", "not run", "not run"]
    assert run_all(runs, jobs=2, gpus=[], retries=0) == []
    missing = ["toys/Net/CN, seed 0", "toys/Net/CN, seed 1", "toys/Net/SN, seed 1"]
    assert sorted(attempts(tmp_path)) == missing
    assert states(runs) == ["done"] * 4
    assert run_all(runs, jobs=2, gpus=[], retries=0) == []
    assert sorted(attempts(tmp_path)) == missing


def test_a_failed_run_is_tried_again_then_reported(
    tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failures").write_text("1")
    assert run_all(runs[:1], jobs=1, gpus=[], retries=1) == []
    assert len(attempts(tmp_path)) == 2 and states(runs[:1]) == ["done"]
    (tmp_path / "failures").write_text("9")
    assert run_all(runs[1:2], jobs=1, gpus=[], retries=1) == ["toys/Net/SN, seed 0"]
    assert len(attempts(tmp_path)) == 4 and states(runs[1:2]) == ["failed"]
    assert "trying again" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "why"), [(66, "data are missing"), (2, "options are refused")])
def test_what_no_attempt_mends_is_tried_once(
    tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str], code: int, why: str
) -> None:
    (tmp_path / "failures").write_text(str(code))
    assert run_all(runs[:1], jobs=1, gpus=[], retries=3) == ["toys/Net/CN, seed 0"]
    assert len(attempts(tmp_path)) == 1 and why in capsys.readouterr().out


def test_two_runners_never_train_one_run(tmp_path: Path, runs: list[Run]) -> None:
    with runs[0].lock():
        assert states(runs[:1]) == ["running"]
        assert run_all(runs[:2], jobs=1, gpus=[], retries=0) == []
    assert attempts(tmp_path) == ["toys/Net/SN, seed 0"]
    assert states(runs[:1]) == ["not run"]


def test_two_runners_at_once_share_the_rows(tmp_path: Path, runs: list[Run]) -> None:
    """Started together, they run each row once, and together all of them."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run_all, runs, jobs=1, gpus=[], retries=0) for _ in range(2)]
        assert [future.result() for future in futures] == [[], []]
    assert sorted(attempts(tmp_path)) == sorted(run.title for run in runs)
    lines = [record["name"] for record in read_results(tmp_path / "results" / "toy.jsonl")]
    assert len(lines) == 4 and states(runs) == ["done"] * 4


def test_a_run_whose_runner_was_killed_is_not_run_beside_it(
    tmp_path: Path, runs: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs[0].directory.mkdir(parents=True)
    with FileLock(runs[0].directory / "training.lock"):
        assert states(runs[:1]) == ["running"]
        assert run_all(runs[:1], jobs=1, gpus=[], retries=0) == []
        assert "passed over" in capsys.readouterr().out
    assert attempts(tmp_path) == [] and states(runs[:1]) == ["partial"]


# Waits for a signal, at which it saves and ends as tasks do; the second time it has a result.
SAVING = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
saved = folder / "saved"
def save(*_):
    with saved.open("a") as file:
        file.write("saved\\n")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
if not saved.exists():
    (folder / "started").touch()
    time.sleep(300)
    sys.exit(3)
"""
INTERRUPTED = """
import pathlib, sys
from tests.tasks.tables.test_runner import SAVING, SCRIPT, recipe
from tasks.tables.runner import Places, Run, run_all, runs_of
from tasks.tables.spec import Row, Table
folder = pathlib.Path(sys.argv[1])
def commands(run):
    arguments = [str(folder), run.title, run.row.name, str(run.seed)]
    return [[sys.executable, "-c", code, *arguments] for code in (SAVING, SCRIPT)]
Run.commands = commands
Run.recipe, Run.given_data = recipe, lambda run: None
rows = [Row(name=name, network="Net") for name in ("CN", "SN")]
table = Table(
    key="toys", title="t", dataset="d", task="toy", configs=[], rows=rows, metric="mce"
)
places = Places(runs=folder / "runs", results=folder / "results")
try:
    run_all(runs_of(table, rows, 1, places), jobs=1, gpus=[], retries=1)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "group"), [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)]
)
def test_an_interruption_is_passed_on_once_and_the_same_command_continues(
    tmp_path: Path, runs: list[Run], root: Path, number: signal.Signals, group: bool
) -> None:
    """Ctrl-C in a terminal reaches the whole group, `kill` the runner alone."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root, start_new_session=True)
    deadline = time.monotonic() + 600
    while not (tmp_path / "started").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    (os.killpg if group else os.kill)(process.pid, number)
    assert process.wait(300) == 130
    # It heard of it once, is no failure, and nothing was started after it.
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert attempts(tmp_path) == [] and states(runs)[0] in ("not run", "partial")
    assert run_all(runs[:2], jobs=1, gpus=[], retries=0) == []
    assert attempts(tmp_path) == ["toys/Net/CN, seed 0", "toys/Net/SN, seed 0"]


def test_each_gpu_holds_one_run_at_a_time(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []
    used: list[str] = []

    def train(run: Run, gpu: str, workers: int, processes: runner.Processes) -> int:
        assert gpu not in held and workers == 2
        held.append(gpu)
        used.append(gpu)
        held.remove(gpu)
        return 0

    monkeypatch.setattr(runner, "_train_and_test", train)
    assert run_all(runs, jobs=1, gpus=["0", "3"], retries=0) == []
    assert set(used) <= {"0", "3"} and len(used) == 4


def test_a_row_may_test_what_another_one_trained(
    tmp_path: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, lock and commands; the training of the two is one."""
    rows = [Row(name="AdaBN", network="Net", trained_as="CN"), Row(name="CN", network="Net")]
    table = Table(
        key="toys", title="t", dataset="d", task="toy", configs=[], rows=rows, metric="mce"
    )
    tests, trains = runs_of(table, rows, 1, runs[0].places)
    assert tests.trained == trains.trained == trains
    with trains.lock():
        assert states([tests]) == ["running"]
    assert run_all([tests, trains], jobs=1, gpus=[], retries=0) == []
    assert attempts(tmp_path) == ["toys/Net/CN, seed 0", "toys/Net/AdaBN, seed 0"]
    monkeypatch.undo()
    monkeypatch.setattr(Run, "digests", lambda run: (f"{run.row.name}-{run.seed}",))
    (fit, test), (own_fit, own_test) = tests.commands(), trains.commands()
    assert fit == own_fit and "--name=toys/Net/AdaBN" in test
    place = f"{tmp_path}/runs/toy/toys/Net/CN/seed0-CN-0/checkpoints/last.ckpt"
    assert f"--ckpt_path={place}" in test
    assert not any("ckpt_path" in argument for argument in own_test)


def test_a_row_of_pretrained_weights_is_tested_once_and_never_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """From the row to the table; a result that was trained never takes its place."""
    monkeypatch.chdir(root)
    file = tmp_path / "net.pth"
    torch.save(wide_resnet(depth=10, width=1).state_dict(), file)
    rows = [
        Row(name="given", network="Net", untrained=True, options={"model.weights": str(file)}),
        Row(name="trained", network="Net"),
    ]
    options = ["--trainer.accelerator=cpu", "--data.corruptions=[contrast]"]
    places = Places(runs=tmp_path / "runs", results=tmp_path / "results", options=options)
    table = Table(
        key="toys", title="t", dataset="d", task="classification", metric="error", rows=rows,
        configs=["configs/digits.yaml"], columns={"error": "error"},
    )  # fmt: skip
    runs = runs_of(table, rows, 2, places)
    assert [(run.row.name, run.seed) for run in runs] == [
        ("given", 0), ("trained", 0), ("trained", 1)
    ]  # fmt: skip
    lines = tmp_path / "results" / "classification.jsonl"
    other = {**FINAL, "name": "toys/Net/given", "recipe": portable(runs[0].recipe() or {})}
    append_result(lines, {**other, "seed": 0, "summary": {"error": 0.5}})
    assert states(runs) == ["not run"] * 3
    assert run_all(runs[:1], jobs=1, gpus=[], retries=0) == []
    assert states(runs) == ["done", "not run", "not run"]
    *_, record = read_results(lines)
    text = document(blocks_of(sheets_of(table, lines.parent)[record["dataset"]]))
    assert f"| Net | given | {100 * record['summary']['error']:.1f} | 1 |" in text
    assert "Not trained here: net.pth." in text and "Epochs" not in text
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_row_cannot_test_what_no_row_trains(tmp_path: Path) -> None:
    path = tmp_path / "toys.yaml"
    text = "{title: t, dataset: d, task: text, configs: [], rows: [{name: A, network: N, %s}]}"
    path.write_text(text % "trained_as: B")
    with pytest.raises(ValueError, match=r"`trained_as` of N/A to name a trained row.*'B'"):
        Table.load(path)
    path.write_text(text % "trained_as: A")
    with pytest.raises(ValueError, match="trained_as"):
        Table.load(path)
    # Which options two files differ by, no line can tell.
    path.write_text(text % "trained_as: B, configs: [b.yaml]}, {name: B, network: N")
    with pytest.raises(ValueError, match=r"N/A to have the `configs` \[\] .* got \['b.yaml'\]"):
        Table.load(path)


def test_settings_repeat_every_row(tmp_path: Path) -> None:
    path = tmp_path / "toys.yaml"
    path.write_text(
        "title: t\ndataset: d\ntask: text\nconfigs: []\n"
        "settings: {a to b: {data.source: a}, b to a: {data.source: b}}\n"
        "rows:\n- {name: A, network: N, options: {x: 1}}\n- {name: B, network: N, trained_as: A}\n"
    )
    table = Table.load(path)
    assert [row.key for row in table.rows] == [
        "N/a_to_b/A", "N/a_to_b/B", "N/b_to_a/A", "N/b_to_a/B"
    ]  # fmt: skip
    assert table.rows[2].options == {"data.source": "b", "x": 1}
    assert table.trained(table.rows[3]) is table.rows[2]


def test_a_table_of_the_paper_says_where_no_value_could_be_read(root: Path) -> None:
    table = Table.load(root / "configs" / "paper" / "office31.yaml")
    text = document(blocks_of(Sheet(table=table, dataset=table.dataset)))
    assert len(table.rows) == 54 and text.count("| not available |") == 9
    ours = Table.load(root / "configs" / "studies" / "pacs_subset.yaml")
    assert "not available" not in document(blocks_of(Sheet(table=ours, dataset=ours.dataset)))


def test_bad_rows_and_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(["all"])
    assert "say which table" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        reproduce.main(["quickstart", "--list", "--config", "missing.yaml"])
    assert "there is none at missing.yaml" in capsys.readouterr().err
    assert reproduce.main(["quickstart", "--rows", "CNN"]) == 2
    assert "baseline, CN, SN" in capsys.readouterr().err


TINY = ["--trainer.max_steps=2", "--trainer.max_epochs=null", "--trainer.accelerator=cpu"]


@pytest.mark.parametrize("cluster", [[], pytest.param(["--cluster=local"], marks=pytest.mark.slow)])
def test_from_a_row_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, cluster: list[str]
) -> None:
    """From any working directory, below which runs and results lie."""
    monkeypatch.chdir(tmp_path)
    command = ["quickstart", "--seeds=1", "--rows", "CN"]
    options = ["--options", *TINY]
    if cluster:
        submit = runner.slurm_submit
        monkeypatch.setattr(
            reproduce, "slurm_submit", lambda *a, **k: [j.result() for j in submit(*a, **k)]
        )
    assert reproduce.main([*command, *cluster, *options]) == 0
    results = tmp_path / "runs" / "results"
    (record,) = read_results(results / "classification.jsonl")
    assert record["finished"]["steps"] == 2
    reproduce.main([*command, "--print"])
    text = (results / "quickstart.md").read_text()
    assert f"| WideResNet-10-1 | CN | {100 * record['summary']['error']:.1f} |" in text
    assert "| WideResNet-10-1 | SN | not run |" in text
