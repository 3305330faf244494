"""What is typed holds against what a checkpoint has stored, and the difference is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import NO_DATA
from tasks.engine.results import read_results
from tests.reliability.launcher import Launcher
from tests.reliability.runs import checkpoint, options, run_directory, succeeded

pytestmark = pytest.mark.promise("the command line wins over a checkpoint, and says where it does")


def test_options_of_the_optimiser_hold(warm: Launcher, data: Path, tmp_path: Path) -> None:
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path / "first")]))
    start = run_directory(tmp_path / "first") / "checkpoints" / "last.ckpt"
    more = ["--model.optimizer.lr=0.003", "--model.optimizer.schedule=constant"]
    more += ["--model.optimizer.weight_decay=0.01", "--trainer.max_epochs=3"]
    command = ["fit", *options("text", data, tmp_path / "second", *more), f"--ckpt_path={start}"]
    output = succeeded(warm.run("text", command))
    assert "The options differ from those that the checkpoint was trained with" in output
    assert "model.optimizer.weight_decay: " in output and "0.01 is used" in output
    assert "trainer.max_epochs: 2 in the checkpoint, 3 is used" in output
    last = checkpoint(tmp_path / "second")
    assert last["global_step"] == 15
    (group,) = last["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.003 and group["weight_decay"] == 0.01
    assert last["lr_schedulers"][0]["base_lrs"] == [0.003]
    # The same command finds that run again, finished, and its own options are no difference.
    assert "This run is finished" in succeeded(warm.run("text", command))


@pytest.mark.parametrize(
    ("options_", "said", "groups"),
    [
        ("--model.optimizer.algorithm=sgd", "The optimiser is another one and starts without", 1),
        ("--model.optimizer.decay_norm_and_bias=false", "parts the parameters otherwise", 2),
    ],
)
def test_another_optimiser_starts_without_a_state(
    warm: Launcher, data: Path, tmp_path: Path, options_: str, said: str, groups: int
) -> None:
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path / "first")]))
    start = run_directory(tmp_path / "first") / "checkpoints" / "last.ckpt"
    more = [options_, "--trainer.max_epochs=3", f"--ckpt_path={start}"]
    command = ["fit", *options("text", data, tmp_path / "second", *more)]
    output = succeeded(warm.run("text", command))
    assert said in output and f"{options_.partition('=')[0].removeprefix('--')}: " in output
    last = checkpoint(tmp_path / "second")
    assert last["global_step"] == 15
    (state,) = last["optimizer_states"]
    assert len(state["param_groups"]) == groups
    steps = {float(entry["step"]) for entry in state["state"].values() if "step" in entry}
    assert steps == (set() if "sgd" in options_ else {5.0})


def damaged(last: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Files that a user may take for a checkpoint of the run, and what is said of them."""
    first, *_ = [name for name, value in last["state_dict"].items() if value.is_floating_point()]
    broken = {**last["state_dict"], first: last["state_dict"][first] * float("nan")}
    return {
        "weights": (last["state_dict"], "lacks state_dict, global_step"),
        "older": (last["state_dict"], "lacks state_dict, global_step"),
        "entry": ({"state_dict": last["state_dict"]}, "weights alone are what `--model.weights`"),
        "nan": ({**last, "state_dict": broken}, f"NaN or infinite are {first}"),
        "untrained": (
            {key: value for key, value in last.items() if key != "optimizer_states"},
            "lacks optimizer_states",
        ),
        # It stands at the end of what is asked for.
        "ended": (last, "Expected at least one step of training"),
    }


def test_what_is_no_checkpoint_to_train_from_is_refused(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path)]))
    cases = damaged(checkpoint(tmp_path))
    for name, (content, said) in cases.items():
        path = tmp_path / f"{name}.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=name != "older")
        command = ["fit", *options("text", data, tmp_path / name), f"--ckpt_path={path}"]
        process = warm.run("text", command)
        assert process.code == 1, process.output()
        assert said in process.output() and "Traceback" not in process.output()
        assert not list((tmp_path / name).glob("runs/*/*/*/finished.json"))


def test_a_result_that_cannot_be_written_is_not_lost(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    """Found before the test where it can be, else the line is printed."""
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path)]))
    test = ["test", *options("text", data, tmp_path)]
    (tmp_path / "file").touch()
    process = warm.run("text", [*test, f"--results={tmp_path / 'file'}"])
    assert process.code == 1
    assert "Expected to add a line to" in process.output()
    assert "Loaded model weights" not in process.output()
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("needs /dev/full, a file on a full disk")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "text.jsonl").symlink_to("/dev/full")
    process = warm.run("text", [*test, f"--results={tmp_path / 'full'}"])
    assert process.code == 1
    assert "No space left on device" in process.output()
    line = process.output().partition("add it by hand: ")[2].partition("\n")[0]
    succeeded(warm.run("text", test))
    (written,) = read_results(tmp_path / "results" / "text.jsonl")
    assert json.loads(line)["summary"] == written["summary"]


def test_a_test_of_nothing_and_a_damaged_record_are_one_sentence(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    command = options("text", data, tmp_path)
    succeeded(warm.run("text", ["fit", *command]))
    process = warm.run("text", ["test", *command, "--trainer.limit_test_batches=0"])
    assert process.code == 1
    assert "error: Expected `trainer.limit_test_batches` to leave" in process.output()
    assert not (tmp_path / "results").exists()
    record = run_directory(tmp_path) / "finished.json"
    whole = json.loads(record.read_text())
    for content in ("", "[]", "{", '{"steps": "many"}'):
        record.write_text(content)
        process = warm.run("text", ["fit", *command])
        assert process.code == 1
        assert "to say how the run ended, but it is damaged" in process.output()
    record.unlink()
    succeeded(warm.run("text", ["fit", *command]))  # as the message says
    assert json.loads(record.read_text())["steps"] == whole["steps"]


def test_a_callback_that_may_act_makes_another_run(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    command = ["fit", *options("text", data, tmp_path)]
    succeeded(warm.run("text", command))
    watches = "--trainer.callbacks=[{class_path: LearningRateMonitor}]"
    assert "This run is finished" in succeeded(warm.run("text", [*command, watches]))
    stops = "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val/error}}]"
    assert "This run is finished" not in succeeded(warm.run("text", [*command, stops]))
    assert len(list(tmp_path.glob("runs/*/*/seed*"))) == 2


def test_a_metric_that_is_never_logged_and_missing_data(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    stopping = "{class_path: EarlyStopping, init_args: {monitor: val/none}}"
    command = ["fit", *options("text", data, tmp_path, f"--trainer.callbacks=[{stopping}]")]
    process = warm.run("text", command)
    assert process.code == 1 and "Traceback" not in process.output()
    for word in ("error: Expected EarlyStopping", "`val/none`", "`val/error`", "`val/sst2_error`"):
        assert word in process.output()
    for where, said in (("imdb", "Expected IMDb's reviews"), ("glove", "Expected word vectors")):
        missing = f"--data.{where}={tmp_path / 'no'}"
        process = warm.run("text", ["fit", *options("text", data, tmp_path / "other", missing)])
        assert process.code == NO_DATA and "Traceback" not in process.output()
        assert f"error: {said}" in process.output()
        assert not (tmp_path / "other").exists()
