"""The command line of the classification task, from options to result line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data.classification.cifar import read_cifar
from data.corruptions.arrays import GENERATOR
from tasks.classification.module import Classification, main
from tasks.engine.cli import TaskCLI
from tasks.engine.results import is_final, read_results
from tasks.runs.directory import RunDirectory
from tests.command_line import places, refusal, stop_and_resume
from tests.fakes import write_cifar
from tests.reliability.launcher import Launcher
from tests.reliability.together import TWO, finished, together

DIGITS = [
    "--config=configs/digits.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
CNSN = ["--model.cnsn.kind=cnsn", "--model.cnsn.crop=both", "--model.crossnorm.p=0.5"]
# One epoch.
SHORT = ["--trainer.max_epochs=null", "--trainer.max_steps=6", "--data.batch_size=200"]


pytestmark = pytest.mark.usefixtures("in_the_repository")


def run_directory(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("classification/*/seed*")
    return path


def final_state(folder: Path) -> dict[str, Any]:
    path = run_directory(folder) / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def assert_same_training(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["global_step"] == two["global_step"]
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_fit_then_test_leaves_a_complete_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*DIGITS, *CNSN, *SHORT, *places(tmp_path)]
    main(["fit", *options])
    directory = run_directory(tmp_path)
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert json.loads((directory / "finished.json").read_text())["steps"] == 6
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["model"]["cnsn"]["kind"] == "cnsn"

    main(["test", *options, "--data.corruptions=[contrast,fog]"])
    (record,) = read_results(tmp_path / "results" / "classification.jsonl")
    assert record["dataset"] == "scikit-learn digits (16x16)" and record["n_test"] == 597
    assert record["selection"] == "last epoch" and record["corruptions"] == ["fog", "contrast"]
    assert record["corrupted"] == f"data.corruptions, generator {GENERATOR}, seed 0"
    assert len(record["conditions"]) == 11 and record["finished"]["steps"] == 6
    errors = [c["error"] for c in record["conditions"] if c["severity"]]
    assert record["summary"]["partial_mce"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert record["conditions"][0]["error"] == pytest.approx(by_hand(directory), abs=1e-6)
    assert "contrast" in capsys.readouterr().out

    with pytest.raises(SystemExit) as stop:
        main(["fit", *options])
    assert stop.value.code == 0
    for number in (2, 3):
        main(["fit", *options, "--fresh=true"])
        again = directory.with_name(f"{directory.name}.{number}")
        assert (again / "finished.json").is_file()


def by_hand(directory: Path) -> float:
    """Clean error of the stored weights, without the suite's loaders and metrics."""
    from cnsn import CNSNSpec, insert
    from cnsn.nets import wide_resnet
    from data.classification.digits import Digits

    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", crop="both")).eval()
    net.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    images, labels = Digits().read()[1]
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        return (net(x).argmax(1) != torch.from_numpy(labels)).float().mean().item()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_mid_epoch_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = [*DIGITS, *CNSN, "--trainer.max_epochs=2", "--data.batch_size=200"]
    main(["fit", *options, *places(tmp_path / "whole")])

    options += ["--save_every=1", *places(tmp_path / "parts")]
    stop_and_resume(monkeypatch, Classification, main, ["fit", *options], {2: 0, 8: workers})
    assert_same_training(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("batch", [2, 5])  # The middle of an epoch of six, and its end.
def test_a_signal_saves_the_step_and_is_no_success(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    batch: int,
) -> None:
    options = [*DIGITS, *CNSN, "--trainer.max_epochs=2", "--data.batch_size=200"]
    main(["fit", *options, *places(tmp_path / "whole")])
    options += places(tmp_path / "parts")
    step = Classification.training_step

    def signalled(self: Classification, data: dict[str, Any], batch_idx: int) -> torch.Tensor:
        loss = step(self, data, batch_idx)
        if data["number"] == batch:
            os.kill(os.getpid(), number)
        return loss

    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", signalled)
        with pytest.raises(SystemExit) as stop:
            main(["fit", *options])
    for which, handler in handlers.items():
        signal.signal(which, handler)
    assert stop.value.code == 128 + number
    assert "The same command resumes" in capsys.readouterr().err
    assert final_state(tmp_path / "parts")["global_step"] == batch + 1
    assert not (run_directory(tmp_path / "parts") / "finished.json").exists()

    # Tested as it is, it is no result of the run.
    main(["test", *options, "--data.corruptions=[]"])
    main(["fit", *options])
    main(["test", *options, "--data.corruptions=[]", "--trainer.limit_test_batches=1"])
    main(["test", *options, "--data.corruptions=[]"])
    records = list(read_results(tmp_path / "parts" / "results" / "classification.jsonl"))
    assert [r["selection"] for r in records] == ["unfinished run", "last epoch", "last epoch"]
    assert [is_final(r, "error") for r in records] == [False, False, True]
    assert_same_training(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def test_two_processes_cannot_train_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*DIGITS, *SHORT, *places(tmp_path)]
    main(["fit", *options, "--trainer.fast_dev_run=true"])
    directory = run_directory(tmp_path)
    owner = RunDirectory(directory.parent, seed=0, digest=directory.name.partition("-")[2])
    lock = owner.hold()
    message = refusal(main, ["fit", *options, "--trainer.fast_dev_run=true"], capsys)
    assert str(directory) in message and "another `--name`" in message
    lock.release()
    main(["fit", *options, "--trainer.fast_dev_run=true"])


def test_a_run_from_another_checkpoint_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*DIGITS, "--data.batch_size=200", *places(tmp_path)]
    main(["fit", *options, "--trainer.max_epochs=1"])
    first = run_directory(tmp_path)
    longer = [*options, "--trainer.max_epochs=2"]
    start = f"--ckpt_path={first / 'checkpoints' / 'last.ckpt'}"
    main(["fit", *longer, start])
    main(["fit", *longer])
    others = [path for path in first.parent.glob("seed*") if path != first]
    steps = [json.loads((path / "finished.json").read_text())["steps"] for path in others]
    assert len(others) == 2 and steps == [12, 12]
    capsys.readouterr()
    main(["validate", *longer, "--ckpt_path", str(others[0] / "checkpoints" / "best.ckpt")])
    assert "val/error: 0." in capsys.readouterr().out


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tasks.classification", *arguments]


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(tmp_path: Path, root: Path) -> None:
    options = [*DIGITS, *CNSN, "--trainer.max_epochs=3", "--data.batch_size=100"]
    main(["fit", *options, *places(tmp_path / "whole")])
    options += ["--save_every=1", *places(tmp_path / "parts")]
    for delay in (0.0, 0.3):
        process = subprocess.Popen(command("fit", *options), cwd=root, stdout=subprocess.DEVNULL)
        pattern = "runs/classification/*/seed*/checkpoints/last.ckpt"
        while process.poll() is None and not list((tmp_path / "parts").glob(pattern)):
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command("fit", *options), cwd=root, check=True)
    assert_same_training(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.precision=bf16-mixed", "--model.channels_last=true"],
        ["--model.crossnorm.consistency=10", "--model.crossnorm.p=1"],
        ["--data.jitter=0.5", "--trainer.accumulate_grad_batches=2"],
    ],
)
def test_flags_train(tmp_path: Path, flags: list[str]) -> None:
    main(["fit", *DIGITS, *CNSN, *SHORT, *places(tmp_path), *flags])
    state = final_state(tmp_path)
    assert state["global_step"] == 6
    assert all(value.isfinite().all() for value in state["state_dict"].values())


@pytest.mark.slow
def test_compiled_training_follows_the_plain_one(tmp_path: Path) -> None:
    options = [*DIGITS, *SHORT, "--trainer.max_steps=3", *CNSN, "--model.crossnorm.p=1"]
    main(["fit", *options, *places(tmp_path / "plain")])
    main(["fit", *options, *places(tmp_path / "compiled"), "--model.compile=true"])
    plain, compiled = (final_state(tmp_path / name) for name in ("plain", "compiled"))
    torch.testing.assert_close(compiled["state_dict"], plain["state_dict"], rtol=1e-2, atol=1e-3)


def test_dashboard_logger_writes_to_disk_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    logger = "--config=configs/logging/wandb.yaml"
    main(["fit", *DIGITS, *SHORT, logger, *places(tmp_path)])
    directory = run_directory(tmp_path)
    assert list(directory.glob("wandb/offline-run-*/*.wandb"))
    assert list(directory.glob("metrics/version_0/metrics.csv"))


def test_two_processes_equal_one(tmp_path: Path, root: Path, warm: Launcher) -> None:
    """Same global batches, same losses at the start, the same evaluation of the same weights."""
    options = [*DIGITS, "--trainer.max_steps=4", "--trainer.max_epochs=null"]
    options += ["--data.batch_size=100", "--trainer.log_every_n_steps=1"]
    # As a user starts it, Lightning starting the second process.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    fit = command("fit", *options, *places(tmp_path), *TWO)
    subprocess.run(fit, cwd=root, env=environment, check=True, timeout=200)
    test = ["test", *options, *places(tmp_path), "--data.corruptions=[contrast]"]
    finished(together(warm, "classification", test))
    finished([warm.start("classification", test)])
    parallel, alone = read_results(tmp_path / "results" / "classification.jsonl")
    assert [c["n"] for c in parallel["conditions"]] == [597] * 6
    for a, b in zip(parallel["conditions"], alone["conditions"], strict=True):
        # One image whose two best classes are equal but for rounding may differ.
        assert a["n"] == b["n"] and abs(a["error"] - b["error"]) <= 1 / 597 + 1e-6
        assert a["ece"] == pytest.approx(b["ece"], abs=2e-3)


def corrupt_folder(cifar: Path, n: int = 40) -> Path:
    folder = cifar / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", np.zeros((5 * n, 32, 32, 3), np.uint8))
    # Those of the first severity are right.
    _, labels = read_cifar(cifar, train=False)
    np.save(folder / "labels.npy", np.concatenate([labels, np.full(4 * n, -1)]))
    return folder


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--model.cnsn.crop=all", ["crop", "neither"]),
        ("--model.cnsn.kind=CN", ["kind", "cnsn"]),
        ("--model.cnsn.position=middle", ["position", "post", "middle"]),
        ("--model.crossnorm.p=1.5", ["`p`", "[0, 1]", "1.5"]),
        ("--model.crossnorm.k=99", ["`crossnorm.k`", "at most 3", "99"]),
        ("--model.crossnorm.k=half", ["k", "half"]),
        ("--model.crossnom.k=1", ["crossnom"]),
        ("--data.corruptions=[fogg]", ["fogg", "fog"]),
        ("--data.batch_size=1", ["batch_size", "at least 2"]),
        ("--data.jitter=2", ["jitter", "[0, 1]"]),
        ("--model.network.init_args.depth=12", ["depth", "12"]),
        ("--model.network.init_args.num_classes=7", ["`num_classes`", "10", "7"]),
        ("--model.optimizer.lr=fast", ["lr", "fast"]),
        ("--ckpt_path=/nowhere/a.ckpt", ["/nowhere/a.ckpt"]),
        ("--config=configs/absent.yaml", ["absent.yaml"]),
        ("--seed_everything=-1", ["seed_everything", "-1"]),
        ("--trainer.default_root_dir=x", ["`trainer.default_root_dir`", "--runs", "--results"]),
    ],
)
def test_bad_options_end_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, parts: list[str]
) -> None:
    message = refusal(main, ["fit", *DIGITS, *CNSN, *SHORT, *places(tmp_path), option], capsys)
    assert all(part in message for part in parts), message
    assert "Traceback" not in message and "Namespace" not in message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_bad_data_end_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--config=configs/cifar10.yaml", "--config=configs/nets/wide_resnet.yaml"]
    base += [*DIGITS[1:], *SHORT, *places(tmp_path), "--model.network.init_args.depth=10"]
    missing = refusal(main, ["fit", *base, f"--data.root={tmp_path / 'none'}"], capsys)
    assert "none" in missing and "python -m data.prepare cifar10" in missing

    cifar = write_cifar(tmp_path / "cifar")
    here = [*base, f"--data.root={cifar}"]
    untrained = refusal(main, ["test", *here], capsys)
    assert "run `fit`" in untrained
    main(["fit", *here, "--trainer.max_steps=2"])
    trained = [*here, "--trainer.max_steps=2", "--data.corruptions=[fog]"]
    assert "python -m data.prepare corrupt" in refusal(main, ["test", *trained], capsys)
    folder = corrupt_folder(cifar)
    assert "belong to different images" in refusal(main, ["test", *trained], capsys)
    np.save(folder / "labels.npy", np.zeros(7, np.uint8))
    assert "200 labels" in refusal(main, ["test", *trained], capsys)
    whole = (folder / "fog.npy").read_bytes()
    (folder / "fog.npy").write_bytes(whole[:1000])
    assert "labels.npy" in refusal(main, ["test", *trained], capsys)
    assert not (tmp_path / "results").exists()

    batch = cifar / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:500])
    assert "data_batch_3" in refusal(main, ["fit", *here], capsys)

    other = next((tmp_path / "runs").rglob("last.ckpt"))
    wide = ["--model.network.init_args.width=3", f"--ckpt_path={other}"]
    message = refusal(main, ["test", *DIGITS, *wide, *places(tmp_path)], capsys)
    assert "of another shape: network.block1" in message and "options of the run" in message
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(other.read_bytes()[:4000])
    message = refusal(main, ["test", *DIGITS, f"--ckpt_path={damaged}", *places(tmp_path)], capsys)
    assert "could not be read safely" in message


def test_every_config_is_valid(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in ("cifar10", "cifar100"):
        for network in sorted((root / "configs" / "nets").glob("*.yaml")):
            with pytest.raises(SystemExit) as stop:
                main(
                    [
                        "fit",
                        f"--config=configs/{data}.yaml",
                        f"--config={network}",
                        "--print_config",
                    ]
                )
            assert stop.value.code in (0, None)
            config = yaml.safe_load(capsys.readouterr().out)
            assert config["data"]["init_args"]["name"] == data


def test_a_stopped_command_promises_what_is_there(tmp_path: Path) -> None:
    cli = object.__new__(TaskCLI)
    nothing = "The same command starts from the beginning."
    assert cli.outlook() == nothing  # Stopped while options were read.
    directory = RunDirectory(tmp_path, seed=0, digest="x")
    cli.begin = SimpleNamespace(directory=directory)  # type: ignore[assignment]
    cli.subcommand = "fit"
    assert cli.outlook() == f"There is no checkpoint yet: t{nothing[1:]}"
    directory.checkpoints.mkdir(parents=True)
    # Where the disk cannot link, the one before is moved first.
    for name in ("previous.ckpt", "last.ckpt"):
        (directory.checkpoints / name).touch()
        assert cli.outlook() == "The same command resumes from the last checkpoint."
    cli.subcommand = "test"
    assert cli.outlook() == nothing
