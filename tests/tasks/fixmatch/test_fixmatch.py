"""FixMatch's step against an independent one, and its command line from options to result line."""

from __future__ import annotations

import copy
import json
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
import torch.nn.functional as F
import yaml
from torch import Tensor

from cnsn import CNSNSpec
from cnsn.insert import crossnorm_sites
from cnsn.nets import wide_resnet
from data.fixmatch.module import Digits
from tasks.engine.base import CrossNormTraining
from tasks.engine.results import read_results
from tasks.fixmatch.module import CrossNormRows, FixMatch, main
from tasks.fixmatch.pseudo_labels import PseudoLabels, pseudo_label
from tasks.tables.runner import Run
from tasks.tables.spec import Table
from tests.command_line import places, stop_and_resume
from tests.fakes import write_cifar
from tests.reliability.launcher import Launcher
from tests.reliability.together import finished, together

DIGITS = [
    "--config=configs/fixmatch_digits.yaml",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--data.batch_size=10",
    "--data.unlabelled_ratio=2",
]
CN = ["--model.cnsn.kind=cn", "--model.crossnorm.p=0.5"]
SHORT = ["--trainer.max_epochs=2", "--data.steps_per_epoch=3"]


pytestmark = pytest.mark.usefixtures("in_the_repository")


def run_directory(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("fixmatch/*/seed*")
    return path


def last_checkpoint(folder: Path) -> dict[str, Any]:
    path = run_directory(folder) / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


# The step.


def module(**options: Any) -> FixMatch:
    torch.manual_seed(0)
    spec, p = options.pop("cnsn", CNSNSpec()), options.pop("p", 1.0)
    made = FixMatch(wide_resnet(depth=10, width=1), spec, CrossNormTraining(p=p), **options)
    made.log_losses = lambda **losses: None  # type: ignore[method-assign]
    made.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    made.pseudo_labels = PseudoLabels(10)
    return made.train()


def batch(labelled: int = 4, unlabelled: int = 6, number: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(labelled + 2 * unlabelled, 3, 8, 8, generator=generator)
    parts = image.split([labelled, unlabelled, unlabelled])
    return {
        **dict(zip(("image", "weak", "strong"), parts, strict=True)),
        "label": torch.arange(labelled),
        "hidden": torch.arange(unlabelled),
        "number": number,
    }


def test_pseudo_labels_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.1, 0.0]], requires_grad=True)
    label, kept = pseudo_label(logits, threshold=0.9, temperature=1.0)
    # Confidences: 0.881, 0.953, 0.525.
    assert label.tolist() == [1, 0, 0] and kept.tolist() == [False, True, False]
    _, sharpened = pseudo_label(logits, threshold=0.9, temperature=0.5)
    assert sharpened.tolist() == [True, True, False]
    assert not label.requires_grad and not kept.requires_grad

    metric = PseudoLabels(3)
    metric.update(torch.tensor([0, 0, 1]), torch.tensor([True, False, True]), torch.zeros(3))
    metric.update(torch.tensor([1, 2]), torch.tensor([True, True]), torch.tensor([1, 2]))
    figures = metric.compute()
    assert figures["mask_rate"] == pytest.approx(4 / 5)
    assert figures["accuracy"] == pytest.approx(3 / 4)
    assert figures["accuracy_all"] == pytest.approx(4 / 5)
    assert figures["classes"] == pytest.approx([1 / 4, 1 / 2, 1 / 4])


@pytest.mark.parametrize("threshold", [0.0, 0.15, 1.0])
def test_loss_and_gradient_equal_the_equations(threshold: float) -> None:
    made = module(threshold=threshold, unlabelled_weight=0.7, temperature=0.8)
    reference = copy.deepcopy(made.network)
    b = batch()
    made.training_step(b, 0).backward()

    logits = reference(torch.cat([b["image"], b["weak"], b["strong"]]))
    total = torch.zeros(())
    for i in range(4):
        total = total - logits[i].log_softmax(0)[i] / 4
    for i in range(6):
        q = (logits[4 + i].detach() / 0.8).softmax(0)
        if q.max() >= threshold:
            total = total - 0.7 * logits[10 + i].log_softmax(0)[q.argmax()] / 6
    total.backward()
    for own, other in zip(made.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-5)
    # Batch statistics of all images together.
    torch.testing.assert_close(made.network.bn1.running_mean, reference.bn1.running_mean)


def test_without_unlabelled_images_it_is_supervised() -> None:
    made = module()
    reference = copy.deepcopy(made.network)
    b = batch()
    del b["weak"], b["strong"]
    loss = made.training_step(b, 0)
    assert loss.item() == F.cross_entropy(reference(b["image"]), b["label"]).item()


@pytest.mark.parametrize(
    ("rows", "changed"),
    [
        ("labelled", range(4)),
        ("labelled+strong", range(10)),
        ("strong", range(4, 10)),
        ("all", range(16)),
    ],
)
def test_crossnorm_acts_on_the_rows_asked_for(rows: CrossNormRows, changed: range) -> None:
    made = module(cnsn=CNSNSpec(kind="cn"), crossnorm_rows=rows)
    found: list[Tensor] = []

    def record(site: torch.nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        if site.active:
            found.append((args[0] != out).flatten(1).any(1))

    for site in crossnorm_sites(made.network):
        site.register_forward_hook(record)
    made.training_step(batch(number=3), 0)
    (rows_changed,) = found
    # A permutation may leave a sample where it is; this step's leaves few.
    assert set(rows_changed.nonzero()[:, 0].tolist()) <= set(changed)
    assert rows_changed.sum() >= len(changed) - 2
    assert not any(site.active for site in crossnorm_sites(made.ema))


def test_average_of_weights_and_copy_of_buffers() -> None:
    made = module(ema_decay=0.9)
    optimizer = torch.optim.SGD(made.network.parameters(), lr=0.1)
    expected = {k: v.clone() for k, v in made.network.state_dict().items()}
    names = {name for name, _ in made.network.named_parameters()}
    for number in range(3):
        optimizer.zero_grad()
        made.training_step(batch(number=number), 0).backward()
        optimizer.step()
        made.update_average()
        for key, value in made.network.state_dict().items():
            average = 0.9 * expected[key] + 0.1 * value if key in names else value.clone()
            expected[key] = average
    torch.testing.assert_close(made.ema.state_dict(), expected, rtol=1e-5, atol=1e-7)
    assert not any(p.requires_grad for p in made.ema.parameters())


def test_checkpoints_hold_the_pseudo_labels_of_all_processes() -> None:
    made = module()
    made.pseudo_labels.update(torch.tensor([3]), torch.tensor([True]), torch.tensor([3]))
    own = made.pseudo_labels.table.clone()

    def reduce(tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return tensor.mul_(2)  # in place, as between processes

    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=reduce), is_global_zero=True)
    made.trainer = trainer  # type: ignore[assignment]
    checkpoint: dict[str, Any] = {}
    made.on_save_checkpoint(checkpoint)
    assert torch.equal(checkpoint["pseudo_labels"], 2 * own)
    assert torch.equal(made.pseudo_labels.table, own)
    made.on_load_checkpoint(checkpoint)
    assert made.pseudo_labels.compute()["accuracy"] == 1 and made.pseudo_labels.table.sum() == 8


def test_norm_and_bias_do_not_decay() -> None:
    made = module()
    groups = made.parameter_groups()
    grouped = {id(p) for group in groups for p in group["params"]}
    assert grouped == {id(p) for p in made.network.parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert ("weight_decay" in group) == (parameter.ndim == 1)


# The command line.


def test_fit_then_test_leaves_a_complete_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = [*DIGITS, *CN, *SHORT, *places(tmp_path)]
    # What Lightning tries before training is no evaluation.
    main(["fit", *options, "--trainer.num_sanity_val_steps=1"])
    directory = run_directory(tmp_path)
    draw = json.loads((directory / "labelled.json").read_text())
    assert len(draw["index"]) == 40 and np.bincount(draw["label"]).tolist() == [4] * 10
    assert draw["hash"] in caplog.text
    assert json.loads((directory / "finished.json").read_text())["steps"] == 6
    logged = (directory / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    pseudo = {"mask_rate", "accuracy", *(f"class_{i}" for i in range(10))}
    expected = {"val/error", "val/raw_error", "val/median_error"} | {f"pseudo/{n}" for n in pseudo}
    assert expected <= set(logged.split(","))

    main(["test", *options, "--data.corruptions=[contrast]"])
    (record,) = read_results(tmp_path / "results" / "fixmatch.jsonl")
    assert record["labelled_draw"] == draw["hash"] and record["n_labelled"] == 40
    assert record["n_unlabelled"] == 1200 and record["weights"] == "EMA"
    assert [e["step"] for e in record["evaluations"]] == [3, 6]
    summary, conditions = record["summary"], record["conditions"]
    assert len(conditions) == 6
    for weights, prefix in (("ema", ""), ("network", "raw_")):
        assert summary[f"{prefix}error"] == pytest.approx(by_hand(directory, weights), abs=1e-6)
        errors = [c[f"{prefix}error"] for c in conditions if c["severity"]]
        # Of one corruption, so a partial mean.
        assert summary[f"{prefix}partial_mce"] == pytest.approx(np.mean(errors), abs=1e-6)
    last = [e["error"] for e in record["evaluations"]]
    assert last[-1] == pytest.approx(summary["error"], abs=1e-6)
    assert summary["median_error"] == pytest.approx(np.median(last))
    pseudo = record["evaluations"][-1]["pseudo_labels"]
    assert 0 <= pseudo["mask_rate"] <= 1 and len(pseudo["classes"]) == 10
    assert "Reported: EMA" in capsys.readouterr().out


def by_hand(directory: Path, weights: str) -> float:
    """Clean error of the stored weights, without the suite's loaders and metrics."""
    state = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    net = wide_resnet(depth=10, width=1).eval()
    prefix = f"{weights}."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
    images, labels = Digits().read()[1]
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        return (net(x).argmax(1) != torch.from_numpy(labels)).float().mean().item()


def test_supervised_on_the_same_labels(tmp_path: Path) -> None:
    options = [*DIGITS, *SHORT, *places(tmp_path), "--data.unlabelled_ratio=0"]
    main(["fit", *options])
    main(["test", *options, "--data.corruptions=[]"])
    (record,) = read_results(tmp_path / "results" / "fixmatch.jsonl")
    assert record["n_unlabelled"] == 0 and "pseudo_labels" not in record["evaluations"][-1]
    assert 0 <= record["summary"]["error"] <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_twice_ends_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = [*DIGITS, *CN, "--trainer.max_epochs=2", "--data.steps_per_epoch=20"]
    options += ["--model.threshold=0.11"]
    main(["fit", *options, *places(tmp_path / "whole")])

    options += ["--save_every=1", *places(tmp_path / "parts")]
    stop_and_resume(monkeypatch, FixMatch, main, ["fit", *options], {11: 0, 33: workers})
    one, two = last_checkpoint(tmp_path / "parts"), last_checkpoint(tmp_path / "whole")
    assert one["global_step"] == two["global_step"] == 40
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "evaluations"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0, equal_nan=True)
    assert [e["step"] for e in one["evaluations"]] == [20, 40]


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(tmp_path: Path, root: Path) -> None:
    options = [*DIGITS, *CN, "--trainer.max_epochs=2", "--data.steps_per_epoch=20"]
    main(["fit", *options, *places(tmp_path / "whole")])
    options += ["--save_every=1", *places(tmp_path / "parts")]
    fit = [sys.executable, "-m", "tasks.fixmatch", "fit", *options]
    for delay in (0.0, 0.5):
        process = subprocess.Popen(fit, cwd=root, stdout=subprocess.DEVNULL)
        pattern = "runs/fixmatch/*/seed*/checkpoints/last.ckpt"
        while process.poll() is None and not list((tmp_path / "parts").glob(pattern)):
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(fit, cwd=root, check=True)
    one, two = last_checkpoint(tmp_path / "parts"), last_checkpoint(tmp_path / "whole")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "evaluations"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0, equal_nan=True)


def test_a_run_does_not_resume_with_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*DIGITS, *SHORT, *places(tmp_path)]
    main(["fit", *options, "--trainer.max_steps=3"])
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    with pytest.raises(SystemExit) as stop:
        main(["fit", *options, "--data.labels=30", f"--ckpt_path={checkpoint}"])
    assert "labelled images to be those of the checkpoint" in str(stop.value.code)


def test_two_processes_share_the_batches_of_one(tmp_path: Path, warm: Launcher) -> None:
    options = [*DIGITS, "--trainer.max_epochs=1", "--data.steps_per_epoch=4"]
    options += ["--trainer.log_every_n_steps=1", "--data.corruptions=[]"]
    finished(together(warm, "fixmatch", ["fit", *options, *places(tmp_path)]))
    main(["test", *options, *places(tmp_path)])
    (record,) = read_results(tmp_path / "results" / "fixmatch.jsonl")
    assert record["conditions"][0]["n"] == 597
    # What two processes found while training is what one finds of their weights.
    assert record["evaluations"][-1]["error"] == pytest.approx(record["summary"]["error"], abs=2e-3)
    state = last_checkpoint(tmp_path)["state_dict"]
    assert int(state["network.bn1.num_batches_tracked"]) == 4
    pseudo = record["evaluations"][-1]["pseudo_labels"]
    # 4 steps of 20 unlabelled images, both processes' share counted.
    assert (pseudo["accuracy_all"] * 80) == pytest.approx(round(pseudo["accuracy_all"] * 80))


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("--data=data.classification.Digits", ["`data`", "data.fixmatch", "digits.Digits"]),
        ("--data.labels=9", ["`labels`", "at least 10", "9"]),
        ("--data.labels=1201", ["`labels`", "at most 1200", "1201"]),
        ("--data.labels=1200", ["training images of class"]),
        ("--data.batch_size=700", ["unlabelled set", "batch of 1400", "1200"]),
        ("--data.unlabelled=some", ["unlabelled", "rest"]),
        ("--data.unlabelled_ratio=-1", ["`unlabelled_ratio`", "at least 0"]),
        ("--data.steps_per_epoch=0", ["`steps_per_epoch`", "at least 1"]),
        ("--model.threshold=1.01", ["`threshold`", "[0, 1]", "1.01"]),
        ("--model.threshold=-0.1", ["`threshold`", "[0, 1]"]),
        ("--model.temperature=0", ["`temperature`", "positive"]),
        ("--model.unlabelled_weight=-1", ["`unlabelled_weight`", "0 or more"]),
        ("--model.ema_decay=1", ["`ema_decay`", "[0, 1)"]),
        ("--model.crossnorm_rows=weak", ["crossnorm_rows", "labelled+strong"]),
        ("--model.crossnorm.consistency=10", ["`crossnorm.consistency`", "to be 0"]),
    ],
)
def test_bad_options_end_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, parts: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *DIGITS, *CN, *SHORT, *places(tmp_path), option])
    assert stop.value.code not in (0, None)
    message = f"{stop.value.code}{capsys.readouterr().err}"
    assert all(part in message for part in parts), message
    assert "Traceback" not in message and not list(tmp_path.rglob("*.ckpt"))


def test_cifar_layout_with_labels_that_classes_do_not_divide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cifar = write_cifar(tmp_path / "cifar")
    options = ["--config=configs/fixmatch.yaml", *DIGITS[1:], *SHORT, *places(tmp_path)]
    options += [f"--data.root={cifar}", "--data.labels=13", "--data.unlabelled=rest"]
    options += ["--model.network.init_args.depth=10", "--model.network.init_args.width=1"]
    options += ["--model.cnsn.kind=cnsn", "--model.cnsn.crop=both", "--model.crossnorm.p=1"]
    main(["fit", *options])
    message = caplog.text
    assert "13 of 200 (10 classes do not divide them: 1 a class, and one more for 3" in message
    assert "Unlabelled: 187 images" in message
    main(["test", *options, "--data.corruptions=[]"])
    (record,) = read_results(tmp_path / "results" / "fixmatch.jsonl")
    assert record["dataset"] == "cifar10-subset (200+40 images)"


def test_the_configuration_is_fixmatch_s_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config=configs/fixmatch.yaml", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"], config["data"]["init_args"]
    expected = {"lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    expected |= {"decay_norm_and_bias": False, "schedule": "cosine_7_16"}
    assert expected.items() <= model["optimizer"].items()
    expected = {"threshold": 0.95, "unlabelled_weight": 1.0, "temperature": 1.0, "ema_decay": 0.999}
    assert expected.items() <= model.items()
    expected = {"depth": 28, "width": 2, "negative_slope": 0.1, "bn_momentum": 0.001}
    assert expected.items() <= model["network"]["init_args"].items()
    expected = {"labels": 250, "label_seed": 1, "batch_size": 64, "unlabelled_ratio": 7}
    expected |= {"unlabelled": "all", "steps_per_epoch": 1024}
    assert expected.items() <= data.items() and config["trainer"]["max_epochs"] == 1024


def test_rows_of_the_tables_are_accepted(root: Path) -> None:
    for file in ("paper/fixmatch", "studies/fixmatch_digits", "studies/fixmatch_cifar10_subset"):
        table = Table.load(root / "configs" / f"{file}.yaml")
        first, last = (Run(table=table, row=table.rows[i], seed=0).digest() for i in (0, -1))
        assert first is not None and last is not None and first != last
