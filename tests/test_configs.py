"""Every file in configs/ is run on tiny data in the real layouts: print, fit, resume, test."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.engine.results import is_final, read_results
from tasks.tables.spec import Table
from tests.command_line import Interruption, interrupt
from tests.config_cases import CASES, DATA, ELSEWHERE, Case


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind of data, filled when it is first asked for."""
    return {}


pytestmark = pytest.mark.usefixtures("in_the_repository")


def folder_of(case: Case, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if case.data not in data:
        data[case.data] = tmp_path_factory.mktemp(case.data.replace(" ", "_"))
        DATA[case.data][0](data[case.data])
    return data[case.data]


def test_every_file_is_in_a_case(root: Path) -> None:
    """A new one needs a case in tests/config_cases.py, or a test of its own folder there."""
    files = {str(p.relative_to(root / "configs")) for p in (root / "configs").rglob("*.yaml")}
    covered = {file for case in CASES for file in case.covers()}
    assert {f for f in files - covered if f.split("/")[0] not in ELSEWHERE} == set()
    assert covered <= files


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.slow else []) for c in CASES],
)
def test_a_configuration_is_printed_fitted_resumed_and_tested(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: dict[str, Path],
    case: Case,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task: Any = importlib.import_module(f"tasks.{case.task}")
    options = case.arguments(folder_of(case, data, tmp_path_factory), tmp_path)
    with pytest.raises(SystemExit) as stop:
        task.main(["fit", *options, "--print_config"])
    assert stop.value.code in (0, None)
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert yaml.safe_load(printed.read_text())["trainer"]["max_steps"] == 2

    # What is printed asks for the same run as the files that it was printed from.
    interrupt(monkeypatch, task.TASK, 1)
    with pytest.raises(Interruption):
        task.main(["fit", f"--config={printed}"])
    capsys.readouterr()
    task.main(["fit", *options])
    (directory,) = (path.parent for path in (tmp_path / "runs").rglob("finished.json"))
    assert json.loads((directory / "finished.json").read_text())["steps"] == 2
    assert len(list(directory.parent.iterdir())) == 1
    task.main(["test", *options])
    (record,) = read_results(tmp_path / "results" / f"{case.task}.jsonl")
    metric = Table.load(Path("configs") / case.table).metric if case.table else "accuracy"
    known = record["summary"]
    partial = metric if metric in known else next(iter(known))
    assert is_final(record, partial) and 0 <= known[partial] <= 1
