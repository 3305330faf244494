"""What is typed holds against what a checkpoint has stored, and the difference is said."""

from __future__ import annotations

from pathlib import Path

import pytest

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
