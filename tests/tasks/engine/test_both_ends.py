"""What a training writes of its first and last step, and says at its end."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from tasks.classification import main
from tasks.engine.results import read_results

pytestmark = pytest.mark.usefixtures("in_the_repository")


def test_first_and_last_loss_are_logged_and_the_end_says_what_is_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        *(
            "--config=configs/digits.yaml",
            "--trainer.max_epochs=1",
            "--data.corruptions=[contrast]",
        ),
        *("--trainer.limit_train_batches=12", "--trainer.check_val_every_n_epoch=1"),
        *(
            f"--runs={tmp_path / 'runs'}",
            f"--results={tmp_path / 'results'}",
            "--data.batch_size=16",
        ),
    ]
    main(["fit", *asked, "--fresh", "false"])
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [0, 9, 11]
    assert all(float(row["train/loss"]) == float(row["train/ce"]) > 0 for row in rows)

    said = caplog.messages
    (last,) = tmp_path.rglob("last.ckpt")
    assert any(line.startswith("Last validation: val/error 0.") for line in said)
    assert f"Checkpoint: {last}" in said
    assert any(line == "WideResNet: 77,850 parameters." for line in said), said
    text = capsys.readouterr().out
    assert "FLOPs" not in text and "v_num" not in text
    assert not any("TPU" in line or "logging interval" in line for line in said)

    command = shlex.split(said[-1].removeprefix("Next: "))
    assert command[:4] == ["python", "-m", "tasks.classification", "test"]
    main(command[3:])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["finished"]["steps"] == 12
