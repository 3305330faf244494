"""No step of any task waits for the device: whole steps on tensors without contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.synchronisation import first_wait
from benchmarks.waiting_cases import Case, cases
from cnsn.nets import wide_resnet
from data.classification.digits import Digits
from tasks.classification.module import Classification
from tasks.engine.progress import Curves, progress_bar
from tasks.engine.speed import SpeedMonitor
from tasks.runs.nonfinite import WatchClasses, WatchNumbers

TRAINING = [
    "classification",
    "classification, CNSN with crops",
    "classification, data on the device",
    "classification, colours and adversarial",
    "classification, AugMix",
    "classification, CutMix",
    "fixmatch, cnsn, 3 unlabelled images a labelled one",
    "segmentation, cnsn",
    "adaptation, source, style of the target, adversary 1",
    "adaptation, per_domain, style of the source, adversary 0",
    "text, crop neither",
    "text, crop both",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return cases(tmp_path_factory.mktemp("waiting"))


@pytest.mark.parametrize("name", TRAINING)
def test_training_steps(
    made: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))
    assert first_wait(made[name]) is None


@pytest.mark.parametrize(
    "name", ["classification, CNSN", "segmentation, none", "text, crop neither"]
)
def test_test_steps(
    made: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))
    assert first_wait(made[name], test=True) is None


def test_what_runs_beside_every_step(made: dict[str, Case], tmp_path: Path) -> None:
    """Between the steps that are logged: bar, curves, speed."""
    options: dict[str, Any] = {
        "callbacks": [
            SpeedMonitor(),
            WatchNumbers("stop", tmp_path),
            WatchClasses(),
            progress_bar(),
        ],
        "logger": Curves(tmp_path),
        "enable_progress_bar": True,
    }
    assert first_wait(made["classification"], **options) is None


class Reads(Classification):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss if loss.item() > 0 else 2 * loss


class Counts(Classification):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        batch["image"][batch["label"] == 3] = 0
        return super().training_step(batch, batch_idx)


class Copies(Classification):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * torch.tensor([2.0]).to(self.device)[0]


class Brings(Classification):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.last = batch["label"].cpu()


class Shows(Classification):
    """What this project did in every step until it was found here."""

    def log_losses(self, **losses: Tensor) -> None:
        super().log_losses(**losses)
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Reads, "loss.item() > 0"),
        (Copies, "torch.tensor([2.0]).to(self.device)"),
        (Brings, ".cpu()"),
        (Shows, "value.item()"),
    ],
)
def test_waits_are_found(kind: type[Classification], line: str) -> None:
    found = first_wait(lambda: (kind(wide_resnet(depth=10, width=1)), Digits()))
    assert found is not None and line in found


def test_waits_in_a_test_are_found() -> None:
    class Tests(Classification):
        def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            if (batch["label"] > 5).any():
                super().test_step(batch, batch_idx)

    found = first_wait(lambda: (Tests(wide_resnet(depth=10, width=1)), Digits()), test=True)
    assert found is not None and '(batch["label"] > 5).any()' in found
