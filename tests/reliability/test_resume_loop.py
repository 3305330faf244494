"""Lightning's loops, resumed at every step in every way that a checkpoint is written.

The order of training batches, validations and ends of epochs is that of an uninterrupted run. No
task, no command line: what is tried here is the state that checkpoints hold of the loops.
"""

from __future__ import annotations

import logging
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.images import ImageTensor
from data.loading import ResumableDataModule, TrainLoader
from tasks.runs.resume import ExactResume, may_save

pytestmark = pytest.mark.promise("a stopped run resumes where it was, mid-epoch and at its end")
Event = tuple[str, int]


class Data(ResumableDataModule):
    """Five batches an epoch, and two of validation."""

    def train_dataloader(self) -> TrainLoader:
        images = ImageTensor(torch.zeros(10, 3, 1, 1, dtype=torch.uint8), torch.arange(10))
        return self.resumable(TrainLoader(images, batch_size=2, seed=0))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.arange(2), batch_size=1)  # type: ignore[arg-type]


class Recorder(L.LightningModule):
    """Notes what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.events: list[Event] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.events.append(("train", batch["number"]))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.events.append(("validate", batch_idx))

    def on_train_epoch_end(self) -> None:
        self.events.append(("end of epoch", self.current_epoch))


class Stopped(Exception):
    pass


class StopAt(L.Callback):
    """Saves and stops at a step, where it may."""

    def __init__(self, place: str, step: int, path: Path) -> None:
        self.place, self.step, self.path = place, step, path
        self.before = -1

    def stop(self, trainer: L.Trainer, place: str) -> None:
        if (place, trainer.global_step) == (self.place, self.step):
            trainer.save_checkpoint(self.path)
            raise Stopped

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        allowed = may_save(trainer, self.before)
        self.before = trainer.global_step
        if allowed:
            self.stop(trainer, "batch")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.stop(trainer, "validation")


def train(folder: Path, stop: L.Callback | None, start: Path | None, **options: Any) -> Recorder:
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        callbacks=[*([] if stop is None else [stop]), ExactResume()],
        **options,
    )
    try:
        trainer.fit(model, datamodule=Data(), ckpt_path=start, weights_only=True)
    except Stopped:
        return model
    model.events.append(("steps", trainer.global_step))
    return model


@pytest.mark.parametrize(
    ("options", "steps", "stops"),
    [
        ({"max_epochs": 2}, 10, 12),
        ({"max_epochs": 2, "check_val_every_n_epoch": 2}, 10, 10),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 6, 8),
        ({"max_epochs": 2, "val_check_interval": 2}, 10, 12),
        ({"max_epochs": 2, "limit_val_batches": 0}, 10, 8),
        ({"max_steps": 10, "max_epochs": -1}, 10, 12),
        ({"max_steps": 7, "max_epochs": -1, "accumulate_grad_batches": 2}, 7, 9),
    ],
)
def test_resumed_at_every_step(
    tmp_path: Path,
    options: dict[str, Any],
    steps: int,
    stops: int,
    record_property: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "lightning.pytorch")
    warnings.simplefilter("ignore")
    whole = train(tmp_path, None, None, **options).events
    assert whole[-1] == ("steps", steps)
    tried = 0
    for place, step in product(("batch", "validation"), range(1, steps + 1)):
        path = tmp_path / f"{place}{step}.ckpt"
        first = train(tmp_path, StopAt(place, step, path), None, **options).events
        if not path.is_file():
            continue  # Nothing is saved there.
        second = train(tmp_path, None, path, **options).events
        if options.get("max_epochs") == -1 and step == steps and place == "validation":
            second.insert(0, ("end of epoch", 1))  # The run had nothing left to do but this.
        # A checkpoint of the run's very last step may leave out the empty rest of its epoch.
        expected = whole if ("train", 10) not in first else [e for e in whole if e != whole[-2]]
        assert [*first, *second] == expected, f"stopped at {place} {step}"
        tried += 1
    assert tried == stops
    record_property("cases", tried)
