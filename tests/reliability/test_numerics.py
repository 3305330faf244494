"""Losses and gradients that are not finite, classes that never appear, statistics in 16 bits."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cnsn import CrossNorm, SelfNorm
from cnsn.functional import cross_norm, instance_stats
from tasks.classification.module import main
from tasks.runs.nonfinite import SKIPPED_IN_A_ROW, NonFiniteError, WatchClasses, WatchNumbers
from tests.reliability import poisoned

STOPS = pytest.mark.promise("a loss or gradient that is not finite stops, or is left out, by name")
CLASSES = pytest.mark.promise("a class without labels is named after the first epoch")
HALF = pytest.mark.promise("statistics are safe in fp16 and bf16")

# ---------------------------------------------------------------------------- a small training

Poison = Callable[[int, Tensor], Tensor]  # batch number, loss -> loss


class Data(L.LightningDataModule):
    """Sixteen samples in batches of two, numbered as the suite's loaders do."""

    num_classes = 3
    class_names = ("cat", "dog", "owl")

    def __init__(self, labels: Tensor | None = None) -> None:
        super().__init__()
        x = torch.linspace(-1, 1, 32).view(16, 2)
        label = torch.arange(16) % 3 if labels is None else labels
        self.data = TensorDataset(x, label, torch.arange(16))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=2)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> dict[str, Any]:
        x, label, index = batch
        return {"x": x, "label": label, "index": index, "number": int(index[0]) // 2, "epoch": 0}


class Model(L.LightningModule):
    def __init__(self, poison: Poison, lr: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        self.poison, self.lr = poison, lr
        self.states: list[dict[str, Tensor]] = []  # before every batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        kept = [v.clone() for s in optimizer.state.values() for v in s.values() if v is not None]
        self.states.append(
            {k: v.clone() for k, v in self.state_dict().items()}
            | {f"optimizer {i}": v for i, v in enumerate(kept)}
        )
        x = self.poison(batch["number"], batch["x"])
        return nn.functional.cross_entropy(self.net(x), batch["label"].clamp(0, 2).long())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)


def nan_at(*numbers: int) -> Poison:
    return lambda number, x: x * float("nan") if number in numbers else x


def fit(folder: Path, model: Model, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    torch.manual_seed(0)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), callbacks=[*callbacks], **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=Data())
    return trainer


def saving(folder: Path) -> L.Callback:
    return ModelCheckpoint(
        folder, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )


@STOPS
@pytest.mark.parametrize("every", [1, 3, 50])
@pytest.mark.parametrize("kept", [True, False])
def test_stop_names_batch_samples_and_checkpoint(tmp_path: Path, every: int, kept: bool) -> None:
    """However late the flags are read."""
    last = tmp_path / "last.ckpt"
    watch = WatchNumbers("stop", last, every=every)
    callbacks = [watch, saving(tmp_path)] if kept else [watch]
    with pytest.raises(NonFiniteError) as caught:
        fit(tmp_path, Model(nan_at(4, 6)), *callbacks, enable_checkpointing=kept)
    text = str(caught.value)
    assert "the loss is not finite at batch 5 of the run (samples 8, 9)" in text
    assert "--nonfinite skip" in text and "\n" not in text
    if not kept:
        assert "no checkpoint" in text
        return
    assert f"of step 4, is {last}" in text
    state = torch.load(last, weights_only=True)
    assert state["global_step"] == 4
    assert all(v.isfinite().all() for v in state["state_dict"].values())


class Overflow(torch.autograd.Function):
    """A finite value with a gradient that is not."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("inf")


class BadGradient(Model):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return Overflow.apply(loss) if batch["number"] == 2 else loss


@STOPS
@pytest.mark.parametrize("every", [1, 50])
def test_a_gradient_alone_is_found(tmp_path: Path, every: int) -> None:
    model = BadGradient(nan_at())
    with pytest.raises(NonFiniteError, match=r"gradient is not finite at batch 3 .*samples 4, 5"):
        fit(tmp_path, model, WatchNumbers("stop", tmp_path / "x", every=every))


@STOPS
def test_weights_that_overflow_are_never_saved(tmp_path: Path) -> None:
    model = Model(nan_at(), lr=1e38)
    with pytest.raises(NonFiniteError, match=r"finite (weights|loss)") as caught:
        fit(tmp_path, model, WatchNumbers("stop", tmp_path / "last.ckpt"), saving(tmp_path))
    good = list(tmp_path.glob("*.ckpt"))
    for path in good:
        weights = torch.load(path, weights_only=True)["state_dict"].values()
        assert all(value.isfinite().all() for value in weights)
    assert ("no checkpoint" in str(caught.value)) == (not good)


@STOPS
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_skip_leaves_everything_as_it_was(tmp_path: Path, kind: str) -> None:
    model = Model(nan_at(2)) if kind == "loss" else BadGradient(nan_at())
    watch = WatchNumbers("skip", tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=rf"the {kind} is not finite at batch 3 .*samples 4, 5"):
        trainer = fit(tmp_path, model, watch, enable_checkpointing=False)
    assert watch.skipped == 1 and trainer.global_step == 8
    before, after, next_ = model.states[2:5]
    assert len(before) > 9  # momentum is among it
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(next_["net.0.weight"], after["net.0.weight"])  # and it goes on


@STOPS
def test_skip_takes_all_batches_of_an_accumulated_step(tmp_path: Path) -> None:
    model = Model(nan_at(2))
    watch = WatchNumbers("skip", tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match=r"batches 3 to 4 .*samples 4, 5, 6, 7\)"):
        fit(tmp_path, model, watch, enable_checkpointing=False, accumulate_grad_batches=2)
    torch.testing.assert_close(model.states[4], model.states[2], rtol=0, atol=0)


@STOPS
def test_a_run_that_skips_everything_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SKIPPED_IN_A_ROW == 20
    monkeypatch.setattr("tasks.runs.nonfinite.SKIPPED_IN_A_ROW", 3)
    watch = WatchNumbers("skip", tmp_path / "last.ckpt")
    with pytest.warns(UserWarning), pytest.raises(NonFiniteError, match=r"4 steps in a row"):
        fit(tmp_path, Model(nan_at(*range(3, 9))), watch, enable_checkpointing=False)


@STOPS
@pytest.mark.parametrize(("every", "reads"), [(3, 3), (50, 1), (1, 9)])
def test_the_device_is_waited_for_no_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, reads: int
) -> None:
    counted: list[int] = []
    original = WatchNumbers._read
    monkeypatch.setattr(WatchNumbers, "_read", lambda *a: (counted.append(1), original(*a))[1])
    watch = WatchNumbers("stop", tmp_path / "x", every=every)
    fit(tmp_path, Model(nan_at()), watch, enable_checkpointing=False)
    assert len(counted) == reads  # every n of 8 batches, and at the epoch's end


# ------------------------------------------------------------------------- by the command line

DIGITS = [
    "--config=configs/digits.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=null",
    "--trainer.max_steps=6",
    "--data.batch_size=200",
    "--save_every=1",
]


@STOPS
def test_the_command_stops_and_goes_on_when_told_to(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    original = poisoned.Digits.on_after_batch_transfer
    monkeypatch.setattr(poisoned.Digits, "on_after_batch_transfer", original)  # undone at the end
    poisoned.poison(3, 0)
    command = ["fit", *DIGITS, f"--runs={tmp_path}", f"--results={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    text = str(stop.value.code)
    (last,) = tmp_path.glob("classification/*/seed*/checkpoints/last.ckpt")
    assert re.search(r"^error: .* loss is not finite at batch 4 .*samples \d+, \d+, ", text)
    assert f"of step 3, is {last}" in text
    with pytest.warns(UserWarning, match=r"Skipped a step: .* batch 4"):
        main([*command, "--nonfinite=skip"])  # resumes the same run
    record = (last.parents[1] / "finished.json").read_text()
    assert '"steps": 6' in record and '"skipped": 1' in record


@STOPS
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_two_processes_agree(tmp_path: Path, root: Path, policy: str) -> None:
    """The second one alone has a bad batch."""
    command = [
        sys.executable, "-m", "tests.reliability.poisoned", "3", "1", "fit", *DIGITS,
        "--trainer.devices=2", "--trainer.strategy=ddp", f"--nonfinite={policy}",
        f"--runs={tmp_path}", f"--results={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    assert "batch 4 of the run" in done.stderr
    named = re.search(r"samples ((?:\d+, )+)", done.stderr)
    assert named and len(set(named[1].split(", "))) > 60  # of both processes
    (last,) = tmp_path.glob("classification/*/seed*/checkpoints/last.ckpt")
    state = torch.load(last, weights_only=True)
    assert all(v.isfinite().all() for v in state["state_dict"].values())
    assert (done.returncode, state["global_step"]) == ((1, 3) if policy == "stop" else (0, 6))


# ------------------------------------------------------------------------------------- classes


def warned(labels: Tensor, **options: Any) -> list[str]:
    data, trainer = Data(labels), L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[WatchClasses()],
        **options,
    )  # fmt: skip

    class Plain(Model):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            return self.net(batch["x"]).sum()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Plain(nan_at()), datamodule=data)
    return [str(w.message) for w in caught if "classes had no label" in str(w.message)]


@CLASSES
@pytest.mark.parametrize(
    ("labels", "absent"),
    [
        (torch.arange(16) % 3, ""),
        (torch.arange(16) % 2 * 2, "1 of 3 .* 8 batches, .*: 1 \\(dog\\)"),
        (torch.zeros(16, dtype=torch.long), "2 of 3 .*: 1 \\(dog\\), 2 \\(owl\\)"),
        (torch.full((16,), 255), "3 of 3 classes"),
        ((torch.arange(16) % 2 + 1).where(torch.arange(16) > 0, -1), "1 of 3 .*: 0 \\(cat\\)"),
        # Pixels, of which 255 is ignored.
        (torch.tensor([0, 255, 2, 255] * 4).view(16, 1, 1).expand(16, 2, 2), "1 of 3 .*: 1 "),
        # Mixed labels.
        (torch.tensor([[0.5, 0.5, 0.0]] * 16), "1 of 3 .*: 2 \\(owl\\)"),
    ],
)
def test_absent_classes_are_named_once(labels: Tensor, absent: str) -> None:
    found = warned(labels)
    assert len(found) == bool(absent)
    if absent:
        assert re.search(absent, found[0])


@CLASSES
def test_a_part_of_an_epoch_is_not_judged() -> None:
    assert warned(torch.zeros(16, dtype=torch.long), max_steps=5) == []


# ------------------------------------------------------------------------------- half precision

DTYPES = {torch.float16: 2e-3, torch.bfloat16: 2e-2}  # relative error of one rounding and some
INPUTS = {
    # Near the largest number of fp16: a square of it would be infinite, and so would a sum.
    "large": lambda x: x.clamp(-3, 3) * 1e4,
    # Squares below the smallest number of fp16.
    "small": lambda x: x * 1e-4,
    # A mean that would eat all of a variance computed as E[x^2] - m^2.
    "off centre": lambda x: 100 + x,
    "constant": torch.zeros_like,
}


@HALF
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", INPUTS)
def test_statistics_are_those_of_float64(dtype: torch.dtype, kind: str) -> None:
    x = INPUTS[kind](torch.randn(3, 4, 16, 16)).to(dtype)
    mean, std = instance_stats(x, 1e-12)
    exact = x.double()
    expected = exact.var((2, 3), keepdim=True, unbiased=True).add(1e-12).sqrt()
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(
        mean.double(), exact.mean((2, 3), keepdim=True), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(std.double(), expected, rtol=1e-3, atol=1e-6)


@HALF
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("layer", ["cross_norm", "CrossNorm", "SelfNorm", "SelfNorm two-sided"])
def test_layers_stay_finite_and_near_float64(dtype: torch.dtype, kind: str, layer: str) -> None:
    """Forward, and backward of a gradient of 1, in 16 bits."""
    torch.manual_seed(0)
    x = INPUTS[kind](torch.randn(4, 4, 12, 12)).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    ways: list[Tensor] = []
    for value in (x, exact):
        torch.manual_seed(1)
        if layer == "cross_norm":
            y = cross_norm(value, value.detach().roll(1, 0))
        elif layer == "CrossNorm":
            cn = CrossNorm().train()
            cn.active = True
            y = cn(value)
        else:
            sn = SelfNorm(4, two_sided="two" in layer).train()
            y = sn(value if value.dtype != torch.float64 else value.float()).to(value.dtype)
        y.sum().backward() if value is exact else y.float().sum().backward()
        ways.append(y.detach())
    assert ways[0].dtype == dtype and ways[0].isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()
    scale = ways[1].abs().max().item() or 1.0
    difference = (ways[0].double() - ways[1].double()).abs().max().item()
    assert difference <= 4 * DTYPES[dtype] * scale
