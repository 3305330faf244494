"""Lightning's callbacks and a user's own: a run with them resumes exactly, or is refused."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks.engine.cli import expected_recipe
from tasks.runs.callback_kinds import NOT_EXACT, check_callbacks, may_swap_weights
from tasks.runs.interruption import SwapBack
from tasks.runs.recipe import config_hash
from tasks.runs.same_run import RunCheckpoint
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import (
    assert_equal_trainings,
    checkpoint,
    options,
    results_of,
    run_directory,
    succeeded,
)
from tests.reliability.steps import OPTION

pytestmark = pytest.mark.promise("a run with callbacks resumes exactly, or they are refused")
EARLY = "{class_path: EarlyStopping, init_args: {monitor: val/error, patience: 1, min_delta: 5}}"
# Averages are validated; every epoch is kept, and the best two of every second step.
AVERAGED = """--trainer.callbacks=[
    {class_path: EMAWeightAveraging, init_args: {decay: 0.8}},
    {class_path: ModelCheckpoint, init_args: {save_top_k: -1}},
    {class_path: ModelCheckpoint,
     init_args: {save_top_k: 2, monitor: val/error, every_n_train_steps: 2, save_last: true}}]"""


def kept(place: Path) -> dict[str, int]:
    """A user's own checkpoints, by name, and the step of each."""
    paths = (run_directory(place) / "checkpoints" / "kept").glob("*.ckpt")
    return {p.name: torch.load(p, weights_only=True)["global_step"] for p in paths}


def test_averaged_weights_and_a_users_checkpoints(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    whole = options("text", data, tmp_path / "whole", AVERAGED)
    parts = options("text", data, tmp_path / "parts", AVERAGED)
    succeeded(warm.run("text", ["fit", *whole]))
    for fault in (Fault("validation", 0, "SIGTERM"), Fault("step", 7, "SIGINT")):
        process = warm.run("text", ["fit", *parts], fault)
        assert process.code == 128 + getattr(signal, fault.do), process.output()
    succeeded(warm.run("text", ["fit", *parts]))
    assert_equal_trainings(tmp_path / "parts", tmp_path / "whole")
    found = checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole")
    for name, current in found[0]["current_model_state"].items():
        assert torch.equal(current, found[1]["current_model_state"][name]), name
    epochs = {"epoch=0-step=5.ckpt": 5, "epoch=1-step=10.ckpt": 10}
    assert epochs.items() <= kept(tmp_path / "whole").items() == kept(tmp_path / "parts").items()
    # Each of them can be tested, though `test` saves none.
    first = run_directory(tmp_path / "parts") / "checkpoints" / "kept" / "epoch=0-step=5.ckpt"
    succeeded(warm.run("text", ["test", *parts, f"--ckpt_path={first}"]))
    (line,) = results_of("text", tmp_path / "parts")
    assert line["selection"] == "given: epoch=0-step=5"


def test_a_run_that_was_to_stop_does_not_go_on(warm: Launcher, data: Path, tmp_path: Path) -> None:
    """Killed after the checkpoint of the epoch that ends it, and before its record."""
    more = (f"--trainer.callbacks=[{EARLY}]", "--trainer.max_epochs=4")
    whole, parts = (["fit", *options("text", data, tmp_path / p, *more)] for p in ("a", "b"))
    succeeded(warm.run("text", whole))
    assert checkpoint(tmp_path / "a")["global_step"] == 10
    assert warm.run("text", parts, Fault("saved", 10, "SIGKILL")).code == -signal.SIGKILL
    succeeded(warm.run("text", parts))
    assert_equal_trainings(tmp_path / "b", tmp_path / "a", frozenset({9}))
    # Another run may start from it.
    start = run_directory(tmp_path / "a") / "checkpoints" / "last.ckpt"
    more = ("--trainer.max_epochs=3", f"--ckpt_path={start}")
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path / "c", *more)]))
    assert checkpoint(tmp_path / "c")["global_step"] == 15


# -------------------------------------------------------------------------------- a run's identity

DIGITS = "--config=configs/digits.yaml"
OTHERS = ["--trainer.check_val_every_n_epoch=3", "--trainer.limit_val_batches=2"]


@cache
def digest(*more: str) -> str:
    recipe = expected_recipe("classification", ["fit", DIGITS, *more])
    assert recipe is not None
    return config_hash(recipe)


@pytest.mark.parametrize(
    ("more", "golden"),
    [
        ((*OTHERS, "--data.eval_batch_size=7"), "5361d9bf"),
        ((*OTHERS, "--trainer.callbacks=[{class_path: LearningRateMonitor}]"), "5361d9bf"),
        ((*OTHERS, OPTION), "3dd303af"),
        (
            (
                *OTHERS,
                "--trainer.callbacks=[{class_path: EMAWeightAveraging, init_args: {decay: 0.9}}]",
            ),
            "f4a17f48",
        ),
    ],
)
def test_runs_are_found_under_their_old_names(more: tuple[str, ...], golden: str) -> None:
    """Recorded before callbacks that follow from validation changed what identifies a run."""
    assert digest(*more) == golden


def test_what_decides_when_to_stop_identifies_a_run() -> None:
    stop = "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: val/error}}]"
    plain = "--trainer.check_val_every_n_epoch=1"
    assert digest(stop, plain) == "7bec357c"  # as it was
    found = [
        digest(stop, plain),
        digest(stop, "--trainer.check_val_every_n_epoch=2"),
        digest(stop, plain, "--trainer.limit_val_batches=2"),
        digest(stop, plain, "--trainer.limit_val_batches=2", "--data.eval_batch_size=7"),
    ]
    assert len({*found}) == len(found)
    assert digest(stop, plain, "--data.eval_batch_size=7") == found[0]
    # A hook given as an option acts as one of a class does.
    hooks = "--trainer.callbacks=[{class_path: LambdaCallback, init_args: {%s: builtins.print}}]"
    assert digest(hooks % "on_test_start") == digest()
    train, validate = (hooks % f"on_{part}_start" for part in ("train", "validation"))
    assert len({digest(), digest(train), digest(validate)}) == 3
    assert digest(train, plain) == digest(train) != digest(validate, plain)


# -------------------------------------------------------------------- refused, or known to be good

GOOD = {
    *("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "DeviceStatsMonitor"),
    *("EarlyStopping", "EMAWeightAveraging", "LambdaCallback", "LearningRateMonitor"),
    *("ModelCheckpoint", "ModelSummary", "OnExceptionCheckpoint", "ProgressBar"),
    *("RichModelSummary", "RichProgressBar", "ThroughputMonitor", "TQDMProgressBar"),
    "WeightAveraging",
}


def test_every_callback_of_lightnings_is_known() -> None:
    """One that a later version brings has to be looked at."""
    refused = {kind.__name__ for kind in NOT_EXACT}
    assert refused | GOOD == {*lightning_callbacks.__all__} and not refused & GOOD


class UsersFinder(lightning_callbacks.BatchSizeFinder):
    """As Lightning's documentation derives it."""


@pytest.mark.parametrize("kind", [*NOT_EXACT, UsersFinder])
def test_what_does_not_resume_exactly_is_refused(kind: type[Any]) -> None:
    given = type("Given", (), {"class_path": f"{kind.__module__}.{kind.__name__}"})()
    with pytest.raises(ValueError, match=rf"resumes exactly, but {kind.__name__} does not: use "):
        check_callbacks([given])
    check_callbacks(None)


# ---------------------------------------------------------------------- weights that are exchanged


class Model(L.LightningModule):
    """Its third validation, after the third epoch, ends in an error."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(2)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(self.norm(batch)).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.current_epoch == 2:
            raise ArithmeticError


class Remember(L.Callback):
    """The weights that the last step left behind."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.state = {k: v.clone() for k, v in pl_module.state_dict().items()}


def test_an_error_in_validation_saves_the_weights_in_their_places(tmp_path: Path) -> None:
    torch.manual_seed(0)
    remember = Remember()
    loader = DataLoader(torch.randn(8, 2), batch_size=4)  # type: ignore[arg-type]
    saving = ModelCheckpoint(tmp_path, save_top_k=0, filename="error", save_on_exception=True)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[WeightAveraging(), remember, saving, SwapBack()],
    )
    with pytest.raises(ArithmeticError):
        trainer.fit(Model(), loader, loader)
    saved = torch.load(tmp_path / "error.ckpt", weights_only=True)
    current, averaged = saved["current_model_state"], saved["state_dict"]
    assert all(torch.equal(current[name], value) for name, value in remember.state.items())
    assert not torch.equal(averaged["layer.weight"], current["layer.weight"])


class Swaps(L.Callback):
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...


def test_which_callbacks_may_exchange_weights() -> None:
    hook = {"on_validation_start": print}
    assert all(map(may_swap_weights, [WeightAveraging(), Swaps(), lambda_callback(**hook)]))
    watching = [ModelCheckpoint(), lambda_callback(on_train_start=print), SwapBack(), Remember()]
    assert not any(map(may_swap_weights, watching))


def lambda_callback(**hooks: Any) -> L.Callback:
    return lightning_callbacks.LambdaCallback(**hooks)


# ------------------------------------------------------------------------- a run's own checkpoints


def test_best_is_known_in_runs_of_before_and_in_moved_ones(tmp_path: Path) -> None:
    def best(folder: str) -> RunCheckpoint:
        return RunCheckpoint(tmp_path / folder, filename="best", monitor="val/error")

    score = torch.tensor(0.25)
    path = str(tmp_path / "old" / "best.ckpt")
    state = {
        **best("old").state_dict(),
        "best_model_score": score,
        "best_model_path": path,
        "kth_best_model_path": path,
        "kth_value": score,
        "best_k_models": {path: score},
    }
    key = ModelCheckpoint(tmp_path, monitor="val/error").state_key
    stored: dict[str, Any] = {"callbacks": {key: state}}
    moved: Any = best("new")
    moved.on_load_checkpoint(None, None, stored)
    # Its place is free for a user's own, which must not take the run's `best` for one of its files.
    assert list(stored["callbacks"]) == [moved.state_key]
    moved.load_state_dict(stored["callbacks"][moved.state_key])
    assert moved.best_model_path == str(tmp_path / "new" / "best.ckpt")
    assert moved.best_k_models == {moved.best_model_path: score}
    assert moved.check_monitor_top_k(L.Trainer(logger=False), torch.tensor(0.2))
    assert not moved.check_monitor_top_k(L.Trainer(logger=False), torch.tensor(0.3))
    users = {"callbacks": {key: "a user's", moved.state_key: state}}
    moved.on_load_checkpoint(None, None, users)
    assert users["callbacks"][key] == "a user's"
