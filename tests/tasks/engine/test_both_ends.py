"""What a training writes of its first and last step, and says at its end."""

from __future__ import annotations

import csv
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tasks import adaptation
from tasks.classification import main
from tasks.engine.results import read_results
from tasks.visualize.trained import load_trained
from tests.fakes import write_domains

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

    # What `predict` says of the test's images, saved as files, is what the test counted.
    trained = load_trained(last)
    images = trained.images(0, 597)
    labels = torch.cat([b["label"] for b in trained.data.condition_loader(0)])
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:03}.png")
    capsys.readouterr()
    main(["predict", "--ckpt_path", str(last), "--images", str(tmp_path)])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [Path(line[2]).name for line in lines] == [f"{n:03}.png" for n in range(597)]
    wrong = sum(int(line[0]) != label for line, label in zip(lines, labels.tolist(), strict=True))
    assert wrong / 597 == pytest.approx(record["summary"]["error"], abs=1e-6)
    assert all(0.1 <= float(line[1]) <= 1 for line in lines)
    with pytest.raises(SystemExit, match="there is nothing"):
        main(["predict", "--ckpt_path", str(last), "--images", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("batch_norm", ["source", "reestimated"])
def test_adaptation_predicts_with_names_without_its_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch_norm: str
) -> None:
    write_domains(tmp_path / "data", {name: {"cat": 4, "dog": 5} for name in ("plain", "dim")})
    adaptation.main(
        [
            *("fit", "--config=configs/domains.yaml", f"--data.root={tmp_path / 'data'}"),
            *("--data.source=plain", "--data.target=dim", f"--model.batch_norm={batch_norm}"),
            *("--data.batch_size=4", "--data.resize=32", "--data.crop=24"),
            *("--trainer.max_epochs=1", f"--runs={tmp_path / 'runs'}"),
            *("--model.network.width=4", "--trainer.limit_val_batches=0"),
        ]
    )
    (last,) = tmp_path.rglob("last.ckpt")
    (tmp_path / "data" / "dim").rename(tmp_path / "given")
    shutil.rmtree(tmp_path / "data")
    capsys.readouterr()
    adaptation.main(["predict", "--ckpt_path", str(last), "--images", str(tmp_path / "given")])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 9 and {line[0] for line in lines} <= {"cat", "dog"}
