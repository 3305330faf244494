"""What results say of the machine and the code that they come from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks.runs.environment
from tasks.classification.module import Classification, main
from tasks.engine.results import fault_of, read_results
from tasks.runs.environment import environment
from tasks.runs.trained_in import TrainedIn
from tests.command_line import Interruption, interrupt, places

DIGITS = [
    "--config=configs/digits.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.max_epochs=null",
    "--trainer.max_steps=6",
    "--data.batch_size=200",
    "--data.corruptions=[]",
]

PRINT = "from tasks.runs.environment import git_commit; print(git_commit())"


def test_the_commit_is_marked_where_the_code_differs(tmp_path: Path, root: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def found() -> str:
        command = [sys.executable, "-c", PRINT]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    (tmp_path / "tasks" / "runs").mkdir(parents=True)
    for name in ("__init__.py", "runs/__init__.py", "runs/environment.py"):
        shutil.copy(root / "tasks" / name, tmp_path / "tasks" / name)
    assert found() == "None"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.jsonl").write_text("{}")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert found() == commit
    (tmp_path / "results" / "a.jsonl").write_text("{}\n{}")
    assert found() == commit
    with (tmp_path / "tasks/runs/environment.py").open("a") as file:
        file.write("# changed")
    assert found() == commit + "+"


@pytest.mark.usefixtures("in_the_repository")
def test_a_run_says_where_each_of_its_steps_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, test = (["fit", *DIGITS, *places(tmp_path)], ["test", *DIGITS, *places(tmp_path)])
    fit += ["--save_every=1"]
    left = interrupt(monkeypatch, Classification, 0, 2, 4)
    for commit, threads in (("dead", 1), ("first", 1), ("second+", 2)):
        # The first ends before any step, and trains nothing of what is there at the end.
        work_at(monkeypatch, commit, threads)
        with pytest.raises(Interruption):
            main(fit)
    work_at(monkeypatch, "first", 1)
    main(fit)
    assert not left
    (finished,) = (tmp_path / "runs").rglob("finished.json")
    whole = json.loads(finished.read_text())

    work_at(monkeypatch, "third", 1)
    main(test)
    main([*test, f"--ckpt_path={finished.parent / 'checkpoints' / 'best.ckpt'}"])
    path = tmp_path / "results" / "classification.jsonl"
    for record in read_results(path):
        assert [(e["commit"], e["threads"]) for e in record["trained"]] == [
            ("first", 1),
            ("second+", 2),
        ]
        assert record["trained"] == whole["trained"]
        assert record["commit"] == "third" and record["numpy"] == np.__version__
    (last, best) = read_results(path)
    kept = {name: value for name, value in whole.items() if name != "trained"}
    assert last["finished"] == kept and best["selection"].startswith("best")
    # Versions, processor and its instructions, as they are here.
    assert last["trained"][0] == {**environment(torch.device("cpu")), "commit": "first"}
    assert last["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert fault_of(last) == ""


@pytest.mark.usefixtures("in_the_repository")
def test_steps_of_a_checkpoint_that_does_not_say_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*DIGITS, *places(tmp_path)]
    interrupt(monkeypatch, Classification, 4)
    work_at(monkeypatch, "first", 1)
    with pytest.raises(Interruption):
        main(["fit", *options, "--save_every=1"])
    (path,) = (tmp_path / "runs").rglob("last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["environments"]
    torch.save(checkpoint, path)
    work_at(monkeypatch, "second", 1)
    main(["fit", *options, "--save_every=1"])
    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["trained"][0] == {} and record["trained"][1]["commit"] == "second"
    assert len(record["trained"]) == 2 and fault_of(record) == ""


def work_at(patch: pytest.MonkeyPatch, commit: str, threads: int) -> None:
    """Let the next run find another commit, and another number of threads."""
    patch.setattr(tasks.runs.environment, "commit_at_start", lambda: commit)
    patch.setattr(torch, "get_num_threads", lambda: threads)


def test_the_commit_is_that_of_the_code_which_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.runs.environment.commit_at_start.cache_clear()
    monkeypatch.setattr(tasks.runs.environment, "git_commit", lambda: "loaded")
    TrainedIn()
    monkeypatch.setattr(tasks.runs.environment, "git_commit", lambda: "committed later")
    assert environment(torch.device("cpu"))["commit"] == "loaded"
    tasks.runs.environment.commit_at_start.cache_clear()
