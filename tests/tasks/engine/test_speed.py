"""The figures of speed: exact by a clock of our own, plausible in a run of the command line."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.images import ImageTensor
from data.loading import NumberedLoader
from tasks.classification.module import Classification, main
from tasks.engine.results import read_results
from tasks.engine.speed import SpeedMonitor, in_words, peak_memory


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Written(list[tuple[int, dict[str, float]]]):
    """A logger."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.append((step, metrics))


def trainer_of(logger: Written, **options: Any) -> Any:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=7))
    defaults = {"world_size": 1, "accumulate_grad_batches": 1, "log_every_n_steps": 2}
    return SimpleNamespace(
        loggers=[logger],
        fit_loop=loop,
        datamodule=SimpleNamespace(train_loader=SimpleNamespace(waited=5.0)),
        **{**defaults, **options},
    )


def module() -> Any:
    task = SimpleNamespace(UNIT="images", device=torch.device("cpu"))
    task.units = lambda batch: len(batch["label"])
    return task


def test_training_figures_by_a_clock() -> None:
    clock, logger, task = Clock(), Written(), module()
    trainer = trainer_of(logger, world_size=2, accumulate_grad_batches=2)
    monitor = SpeedMonitor(clock)

    def step(wait: float, compute: float, images: int) -> None:
        trainer.datamodule.train_loader.waited += wait
        clock.now += wait + compute
        monitor.on_train_batch_end(trainer, task, None, {"label": range(images)}, 0)

    monitor.on_train_epoch_start(trainer, task)
    step(4.0, 8.0, 10)
    assert not logger
    step(1.0, 3.0, 30)
    ((at, first),) = logger
    assert at == 7
    # 40 images on each of two processes in 16 seconds, which were one step of two forwards.
    assert first["speed/images_per_second"] == pytest.approx(5.0)
    assert first["speed/step_seconds"] == pytest.approx(16.0)
    assert first["speed/data_wait"] == pytest.approx(5 / 16)
    assert first["speed/peak_memory_gib"] == pytest.approx(peak_memory(task.device))

    # What happens between steps and is no training does not count.
    clock.now += 1000.0
    trainer.datamodule.train_loader.waited += 50.0
    monitor.on_validation_end(trainer, task)
    step(0.0, 2.0, 20)
    clock.now += 1000.0
    monitor.on_train_epoch_start(trainer, task)
    step(1.0, 1.0, 20)
    assert logger[1][1]["speed/images_per_second"] == pytest.approx(2 * 40 / 4)
    assert logger[1][1]["speed/data_wait"] == pytest.approx(1 / 4)
    step(0.5, 1.5, 8)
    monitor.on_train_end(trainer, task)
    assert len(logger) == 3, "the rest of an interval is logged at the end"
    assert logger[2][1]["speed/step_seconds"] == pytest.approx(4.0)
    # The whole run but its first step.
    assert monitor.trained is not None
    assert monitor.trained["images_per_second"] == pytest.approx(2 * 78 / 10)
    assert monitor.trained["data_wait"] == pytest.approx(2.5 / 10)
    assert "16 images a second, 5,000 ms a step; 25.0 % of the time" in in_words(monitor.trained)


def test_a_run_resumed_within_an_epoch_counts_from_there() -> None:
    clock, logger, task = Clock(), Written(), module()
    trainer, monitor = trainer_of(logger, log_every_n_steps=1), SpeedMonitor(clock)
    monitor.on_train_start(trainer, task)
    clock.now += 2.0
    monitor.on_train_batch_end(trainer, task, None, {"label": range(10)}, 3)
    assert logger[0][1]["speed/step_seconds"] == pytest.approx(2.0)


def test_test_figures_by_a_clock() -> None:
    clock, task = Clock(), module()
    trainer, monitor = trainer_of(Written()), SpeedMonitor(clock)
    monitor.on_test_epoch_start(trainer, task)
    for wait, compute in ((3.0, 5.0), (1.0, 7.0)):
        clock.now += wait
        monitor.on_test_batch_start()
        clock.now += compute
        monitor.on_test_batch_end(trainer, task, None, {"label": range(40)}, 0)
    clock.now += 4.0  # the device finishes
    monitor.on_test_epoch_end(trainer, task)
    assert monitor.tested is not None
    assert monitor.tested["images_per_second"] == pytest.approx(80 / 20)
    assert monitor.tested["data_wait"] == pytest.approx(4 / 20)
    assert "step_seconds" not in monitor.tested


def test_a_loader_knows_how_long_it_was_waited_for() -> None:
    class Slow:
        per_epoch = 4

        def __getitem__(self, number: int) -> dict[str, int]:
            time.sleep(0.03)
            return {"number": number}

    loader = NumberedLoader(Slow())
    start = time.perf_counter()
    for _ in loader:
        time.sleep(0.02)
    whole = time.perf_counter() - start
    assert 4 * 0.03 <= loader.waited <= whole - 4 * 0.02


def test_a_run_logs_its_speed(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    caplog.set_level("INFO")
    read, step = ImageTensor.__getitem__, Classification.training_step

    def slow_read(self: Any, positions: Any) -> Any:
        time.sleep(0.05)
        return read(self, positions)

    def slow_step(self: Any, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.05)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageTensor, "__getitem__", slow_read)
    monkeypatch.setattr(Classification, "training_step", slow_step)
    options = [
        "--config=configs/digits.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=true",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=5",
        "--trainer.log_every_n_steps=2",
        "--data.corruptions=[fog]",
        f"--runs={tmp_path / 'runs'}",
        f"--results={tmp_path / 'results'}",
    ]
    main(["fit", *options])
    (curves,) = (tmp_path / "runs").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(curves.open()) if row["speed/step_seconds"]]
    assert len(rows) == 3, "after 2, 4 and 5 steps"
    for row in rows:
        seconds = float(row["speed/step_seconds"])
        assert seconds > 0.1
        assert float(row["speed/images_per_second"]) == pytest.approx(64 / seconds)
        assert 0.05 / seconds < float(row["speed/data_wait"]) < 1 - 0.05 / seconds
        assert 0.05 < float(row["speed/peak_memory_gib"]) < 100
    assert "Trained at" in caplog.text

    main(["test", *options])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["finished"]["speed"].keys() == {
        "images_per_second", "step_seconds", "data_wait", "peak_memory_gib"
    }  # fmt: skip
    speed = record["speed"]
    # The clean and the five corrupted sets, in less time than the whole command took.
    assert speed["images_per_second"] > 6 * 597 / record["seconds"]
    assert 0 < speed["data_wait"] < 1
    assert "Tested at" in caplog.text
    assert "speed" not in record["summary"]


def test_monitoring_can_be_left_out(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    main([
        "fit",
        "--config=configs/digits.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=0",
        "--trainer.log_every_n_steps=1",
        "--speed=false",
        f"--runs={tmp_path / 'runs'}",
    ])  # fmt: skip
    (curves,) = (tmp_path / "runs").rglob("metrics.csv")
    assert "train/loss" in curves.read_text() and "speed/" not in curves.read_text()
