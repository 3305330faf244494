"""The dashboard's logger, its workspaces and its sweep, without a network."""

from __future__ import annotations

import http.server
import importlib
import itertools
import json
import logging
import socket
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.corruptions.recipes import CORRUPTIONS
from tasks.dashboards import __main__ as dashboards
from tasks.dashboards import logger as wandb_logger
from tasks.dashboards.__main__ import Panel, Spec, workspace_of
from tasks.dashboards.logger import DashboardLogger, best_of, offline_without_key
from tasks.engine.cli import TaskCLI, expected_recipe
from tasks.engine.titles import Titles, titles_of
from tests.command_line import Interruption, interrupt
from tests.config_cases import CASES, DATA, Case
from tests.tasks.dashboards.recorder import Told, listen


@pytest.fixture(autouse=True)
def nobody_is_logged_in(in_the_repository: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def finish() -> None:
    import wandb

    wandb.finish()


def on_disk(folder: Path, *words: str) -> bool:
    """Whether each run is on the disk with these words, once another process has written them."""
    end = time.monotonic() + 60
    while True:
        files = [path.read_bytes() for path in folder.rglob("*.wandb")]
        if files and all(word.encode() in file for file in files for word in words):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def test_a_run_on_disk_has_all_that_a_dashboard_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted in two starts and tested."""
    begun = listen(monkeypatch)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    task: Any = importlib.import_module("tasks.classification")
    options = [
        "--config=configs/digits.yaml", "--config=configs/logging/wandb.yaml",
        "--model.cnsn.kind=cnsn", "--name=shown", "--trainer.accelerator=cpu",
        "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1", "--data.batch_size=400",
        "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", "--save_every=1",
        f"--runs={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}",
    ]  # fmt: skip
    interrupt(monkeypatch, task.TASK, 4)
    with pytest.raises(Interruption):
        task.main(["fit", *options])
    finish()
    task.main(["fit", *options])
    finish()
    task.main(["test", *options, "--data.corruptions=[contrast,fog]"])
    finish()
    first, second, test = begun
    assert on_disk(tmp_path / "runs", first.id, first.group.partition(",")[0], "error")
    assert first.id == second.id != test.id == f"{first.id}-test"
    steps = [
        [values["trainer/global_step"] for values in run.history if "train/loss" in values]
        for run in (first, second)
    ]
    assert steps == [[0, 1, 2, 3], [4, 5]]
    group = "classification/Digits/WideResNet depth=10 width=1/cnsn, batch_size=400"
    for run, job in ((first, "fit"), (second, "fit"), (test, "test")):
        # What a test measures is part of its group.
        what = " corruptions=[contrast,fog]" if run is test else ""
        assert (run.group, run.job) == (f"{group}{what} max_epochs=2", job)
        assert run.tags == ["classification", "WideResNet", "cnsn"]
        where = "WideResNet depth=10 width=1, Digits, max_epochs=2, seed 0"
        assert run.name == f"shown, cnsn, batch_size=400{what}, {where}"
        assert run.config["model"]["cnsn"]["kind"] == "cnsn"
        assert run.config["data"]["init_args"]["batch_size"] == 400
    assert test.config["dataset"] == second.config["dataset"] == "scikit-learn digits (16x16)"
    assert second.summaries["val/error"] == {"min", "last"}
    assert second.summaries["train/loss"] == {"min", "last"}
    assert {"train/ce", "val/ece"} <= second.names and "test/mce" not in second.names
    # The table by corruption and severity, and its picture.
    assert {"test/error", "test/partial_mce", "test/error/fog/3"} <= test.names
    (path,) = (tmp_path / "runs").rglob("error_by_corruption_*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["corruption", *(f"severity {s}" for s in range(6)), "mean"]
    assert [row[0] for row in table["data"]] == ["clean", "contrast", "fog"]
    logged = {name: v for values in test.history for name, v in values.items()}
    assert table["data"][2][4] == pytest.approx(100 * logged["test/error/fog/3"])
    assert table["data"][0][2] is None and len(list((tmp_path / "runs").rglob("*.png"))) == 2


def test_two_methods_are_two_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one YAML."""
    begun = listen(monkeypatch)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    task: Any = importlib.import_module("tasks.classification")
    for options in (["--model.cnsn.kind=cn", "--model.crossnorm.p=0.25"], ["--seed_everything=1"]):
        task.main([
            "fit", "--config=configs/digits.yaml", "--config=configs/logging/wandb.yaml",
            "--trainer.accelerator=cpu", "--trainer.max_steps=1", "--data.batch_size=100",
            "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
            "--trainer.limit_val_batches=0", f"--runs={tmp_path / 'runs'}", *options,
        ])  # fmt: skip
        finish()
    net, rest, steps = "WideResNet depth=10 width=1", "batch_size=100", "max_epochs=30 max_steps=1"
    assert {run.group: run.name for run in begun} == {
        f"classification/Digits/{net}/{method}, {rest} {steps}": (
            f"{method}, {rest}, {net}, Digits, {steps}, seed {seed}"
        )
        for method, seed in (("cn p=0.25", 0), ("baseline", 1))
    }


class Asked(SystemExit):
    """Carries a run's titles out of a command line that is only parsed."""


class TitlesAlone(TaskCLI):
    def before_instantiate_classes(self) -> None:
        self.recipe = self.recipe_of_subcommand()
        raise Asked(self.titles())


def titles(task: str, *arguments: str) -> Titles:
    with pytest.raises(Asked) as asked:
        TitlesAlone(importlib.import_module(f"tasks.{task}").TASK, task, list(arguments))
    found: Titles = asked.value.args[0]
    return found


WIDE = ("fit", "--config=configs/cifar10.yaml", "--config=configs/nets/wide_resnet.yaml")


def test_what_decides_a_value_decides_the_group() -> None:
    first = titles("classification", *WIDE)
    same = [
        "--seed_everything=4", "--name=other", "--data.workers=0", "--save_every=9",
        "--data.root=/elsewhere/datasets", "--config=configs/logging/wandb.yaml",
        "--trainer.devices=1", "--model.adabn=true",  # no `fit` re-estimates
    ]  # fmt: skip
    found = titles("classification", *WIDE, *same)
    assert found.group == first.group and found.name.startswith("other, baseline, WideResNet")
    other = [
        "--model.cnsn.kind=sn", "--data.name=cifar100", "--data.root=subset",
        "--model.network.init_args.width=4", "--config=configs/augment/augmix.yaml",
        "--trainer.max_epochs=2",
    ]  # fmt: skip
    groups = {titles("classification", *WIDE, option).group for option in other}
    assert len(groups | {first.group}) == len(other) + 1
    tests = [
        titles("classification", "test", *WIDE[1:], *options).group
        for options in ((), ("--model.adabn=true",), ("--data.corrupted=a/set",))
    ]
    assert tests[0] == first.group and len(set(tests)) == 3


def test_other_weights_to_start_from_are_another_group(tmp_path: Path) -> None:
    """Files of one name in two folders, of two names in one, and of a disk's root."""
    files = [tmp_path / name for name in ("one/net.pth", "two/net.pth", "two/other.pth")]
    for number, path in enumerate(files):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]))
    weights = {titles("classification", *WIDE, f"--model.weights={path}").group for path in files}
    assert len(weights) == 3 and all("weights=" in group for group in weights)
    config = {
        "name": "default",
        "seed_everything": 0,
        "model": {"network": {"class_path": "Net"}, "cnsn": {"kind": "none"}},
        "data": (data := {"class_path": "data.text.IMDbToSST2"}),
    }
    recipe = {"model": {}, "data": data, "trainer": {}}
    run = Path("runs/text/a/seed0-1234abcd/checkpoints")
    starts = [*files, run / "last.ckpt", run / "best.ckpt", Path("/net.ckpt")]
    groups = {
        titles_of("text", config, {**recipe, "start": str(path)}, {}).group for path in starts
    }
    assert len(groups) == len(starts)


def test_long_titles_stay_apart() -> None:
    """Cut to what a dashboard takes, they end with a hash of the whole, and names with the seed."""
    long = ("fit", "--config=configs/imagenet.yaml", "--config=configs/nets/resnet50.yaml")
    rates = [titles("classification", *long, f"--model.optimizer.lr=0.{i}") for i in (3, 5)]
    assert all(len(text) <= 128 for found in rates for text in found)
    assert rates[0].group != rates[1].group and rates[0].name != rates[1].name
    assert rates[0].name.endswith(", seed 0") and rates[0].group.startswith("classification/Image")


# Without a network.


def closed_port() -> int:
    """That nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_online(
    monkeypatch: pytest.MonkeyPatch, base: str, folder: Path
) -> tuple[list[dict[str, Any]], list[Told]]:
    """What the logger begins its runs with where there is a key, and those that begin."""
    import wandb

    runs = listen(monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", base)
    begun: list[dict[str, Any]] = []
    begin = wandb.init

    def init(**options: Any) -> Any:
        begun.append(options)
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("permission denied")
        return begin(**options)

    monkeypatch.setattr(wandb, "init", init)
    logger = DashboardLogger(save_dir=str(folder), group="g", job_type="fit")
    logger.log_metrics({"train/loss": 0.5, "val/iou": float("nan")}, 0)
    finish()
    return begun, runs


def test_without_a_network_a_run_goes_to_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    base = f"http://127.0.0.1:{closed_port()}"
    (begun,), (run,) = run_online(monkeypatch, base, tmp_path)
    assert begun["mode"] == "offline", "the library, which would wait, is not asked"
    said = [text for text in caplog.messages if "W&B" in text]
    assert len(said) == 1 and f"{base} does not answer" in said[0] and "wandb sync" in said[0]
    assert on_disk(tmp_path, "g", "train/loss")
    assert run.group == "g" and "train/loss" in run.names
    assert "val/iou" not in run.names, "NaN is no value"


def test_a_service_that_takes_calls_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_logger, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", base)
        assert wandb_logger.unreachable().startswith(f"{base} does not answer (")
    monkeypatch.setenv("WANDB_BASE_URL", "boards.example")
    assert "unknown url type" in wandb_logger.unreachable()


def test_a_service_that_refuses_a_run_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (first, second), (run,) = run_online(monkeypatch, base, tmp_path)
        server.shutdown()
    assert "mode" not in first and first["settings"].init_timeout == 30
    assert second["mode"] == "offline" and first["id"] == second["id"]
    assert sum("permission denied" in text for text in caplog.messages) == 1
    assert run.id == first["id"] and on_disk(tmp_path, run.id, "train/loss")


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("val/error", "min"),
        ("val/raw_error", "min"),
        ("val/sst2_ece", "min"),
        ("train/loss", "min"),
        ("val/source_miou", "max"),
        ("val/accuracy", "max"),
        ("test/error", None),
        ("speed/step_seconds", None),
        ("train/domain_accuracy", None),
        ("pseudo/mask_rate", None),
    ],
)
def test_the_better_direction_of_a_curve(name: str, best: str | None) -> None:
    assert best_of(name) == best


@pytest.mark.parametrize(
    ("variables", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": ""}, "", "offline"),
        ({"WANDB_API_KEY": "x" * 40}, "", None),
        ({}, "machine api.wandb.ai\n login user\n password x\n", None),
        ({"WANDB_BASE_URL": "https://boards.example"}, "machine api.wandb.ai\n", "offline"),
        ({"WANDB_BASE_URL": "https://boards.example"}, "machine boards.example\n", None),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
    ],
)
def test_online_only_with_a_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    netrc: str,
    mode: str | None,
) -> None:
    import os

    monkeypatch.setenv("WANDB_MODE", "")  # so that what is set below is undone
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(netrc)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    offline_without_key()
    assert os.environ.get("WANDB_MODE") == mode


# Workspaces.

TASKS = ("adaptation", "classification", "fixmatch", "segmentation", "text")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert dashboards.main(["--dry-run", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_dry_run_prints_every_specification(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    specs = printed(capsys)
    assert tuple(spec["task"] for spec in specs) == TASKS
    for spec in specs:
        names = [section["name"] for section in spec["sections"]]
        asked = ["Training", "Robustness", "Calibration", "Speed"]
        # Segmentation measures no calibration.
        assert names == [n for n in asked if n != "Calibration" or spec["task"] != "segmentation"]
        content = yaml.safe_load((root / f"configs/dashboards/{spec['task']}.yaml").read_text())
        metrics = [
            [panel["metrics"] for section in found["sections"] for panel in section["panels"]]
            for found in (spec, content)
        ]
        assert metrics[0] == metrics[1]
    assert [spec["task"] for spec in printed(capsys, "text")] == ["text"]


def case_of(task: str) -> Case:
    """A small one with validation; classification with all that the mean over corruptions needs."""
    tables = {
        "adaptation": "studies/domains.yaml",
        "classification": "studies/cifar10_subset.yaml",
        "fixmatch": "studies/fixmatch_digits.yaml",
        "segmentation": "studies/scenes.yaml",
        "text": "studies/imdb_sst2.yaml",
    }
    return next(case for case in CASES if case.table == tables[task])


def complete_corruptions(root: Path) -> list[str]:
    import numpy as np

    from data.classification.cifar import read_cifar

    folder = root / "CIFAR-10-C"
    folder.mkdir()
    images, labels = read_cifar(root, "cifar10", train=False)
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", np.concatenate([images] * 5))
    np.save(folder / "labels.npy", np.concatenate([labels] * 5))
    return [f"--data.corruptions=[{','.join(CORRUPTIONS)}]", "--data.eval_batch_size=200"]


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_of_a_workspace_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case = case_of(task)
    DATA[case.data][0](tmp_path / "data")
    options = case.arguments(tmp_path / "data", tmp_path)
    options += ["--trainer.logger=tests.tasks.dashboards.recorder.Recorder"]
    if task == "classification":
        options += complete_corruptions(tmp_path / "data")
        options += ["--model.crossnorm.p=1"]
    if task == "fixmatch":
        options += ["--data.corruptions=[gaussian_noise,defocus_blur,fog,brightness,contrast]"]
    main = importlib.import_module(f"tasks.{task}").main
    for action in ("fit", "test"):
        main([action, *options])
    (path,) = tmp_path.rglob("recorded.json")
    logged = set(json.loads(path.read_text()))
    spec = Spec.load(dashboards.FOLDER / f"{task}.yaml")
    panels = [panel for section in spec.sections for panel in section.panels]
    for panel in panels:
        missing = set(panel.metrics) - logged
        assert panel.optional or not missing, (panel.title, missing, sorted(logged))
    # What every task calls alike.
    assert {"train/loss", "speed/step_seconds", "speed/data_wait"} <= logged


def test_a_workspace_is_built_from_its_specification() -> None:
    pytest.importorskip("wandb_workspaces")
    spec = Spec.load(dashboards.FOLDER / "classification.yaml")
    workspace = workspace_of(spec, entity="team", project="cnsn")
    assert [section.name for section in workspace.sections] == [s.name for s in spec.sections]
    content = workspace._to_model().model_dump_json(by_alias=True)
    for panel in (panel for section in spec.sections for panel in section.panels):
        assert all(metric in content for metric in panel.metrics), panel.title


def test_building_saves_one_workspace_a_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[tuple[str, str]] = []

    def build(spec: Spec, *, entity: str, project: str) -> Any:
        saved.append((spec.task, f"{entity}/{project}"))
        done = types.SimpleNamespace(url=f"https://boards.example/{spec.task}")
        return types.SimpleNamespace(save=lambda: done)

    monkeypatch.setattr(dashboards, "workspace_of", build)
    assert dashboards.main(["text", "fixmatch", "--entity", "team"]) == 0
    assert saved == [("text", "team/cnsn"), ("fixmatch", "team/cnsn")]
    assert "https://boards.example/text" in capsys.readouterr().out


def test_bad_specifications_and_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="`kind` to be one of"):
        Panel(kind="pie", title="t", metrics=["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a table exactly one"):
        Panel(kind="table", title="t", metrics=["a", "b"])
    path = tmp_path / "x.yaml"
    path.write_text("name: n\ntask: t\nsections: [{name: s, panels: [{kind: line}]}]\n")
    with pytest.raises(ValueError, match=r"x\.yaml to be a dashboard"):
        Spec.load(path)
    for arguments, word in ((["pictures"], "pictures"), (["text"], "--entity")):
        with pytest.raises(SystemExit) as stop:
            dashboards.main(arguments)
        assert stop.value.code == 2 and word in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert dashboards.main(["text", "--entity", "team"]) == 2
    assert "pip install -e '.[suite,dashboards]'" in capsys.readouterr().err


# The sweep.


def sweep_command(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What the agent runs for one choice, by the agent's own functions."""
    from wandb.sdk.launch.sweeps import utils

    chosen = {"args": {name: {"value": value} for name, value in values.items()}}
    replaced = utils.create_sweep_command_args(chosen)
    replaced |= {"env": ["/usr/bin/env"], "interpreter": ["python"]}
    command: list[str] = []
    for chunk in utils.create_sweep_command(list(sweep["command"])):
        inside = chunk[2:-1] if chunk.startswith("${") else None
        command += replaced[inside] if inside is not None else [chunk]
    return command


def test_every_command_of_the_sweep_is_accepted(root: Path) -> None:
    """Values one by one through the command line, all that are named through the layers' checks."""
    sweep = yaml.safe_load((root / "configs/sweeps/crossnorm.yaml").read_text())
    parameters = {name: own["values"] for name, own in sweep["parameters"].items()}
    assert sweep["method"] == "grid" and sweep["metric"]["name"] == "val/error"
    choices = [
        dict(zip(parameters, values, strict=True))
        for values in itertools.zip_longest(*parameters.values())
    ]
    choices = [
        {k: parameters[k][0] if v is None else v for k, v in choice.items()} for choice in choices
    ]
    assert all(v in [c[k] for c in choices] for k, own in parameters.items() for v in own)
    recipes, groups = [], set()
    for choice in choices:
        command = sweep_command(sweep, choice)
        assert command[:5] == ["/usr/bin/env", "python", "-m", "tasks.classification", "fit"]
        recipe = expected_recipe("classification", command[4:])
        assert recipe is not None, command
        recipes.append(json.dumps(recipe, sort_keys=True))
        groups.add(titles("classification", *command[4:]).group)
    # Each choice is a run of its own, and so a bar.
    assert len(set(recipes)) == len(groups) == len(choices)


def test_the_sweep_fits_the_network(root: Path) -> None:
    """Every position exists, and has at least as many sites as the largest k."""
    from cnsn import CNSNSpec, insert
    from cnsn.insert import crossnorm_sites
    from cnsn.nets import wide_resnet

    own = yaml.safe_load((root / "configs/sweeps/crossnorm.yaml").read_text())["parameters"]
    for position in own["model.cnsn.position"]["values"]:
        for crop in own["model.cnsn.crop"]["values"]:
            net = wide_resnet(depth=10, width=1)
            spec = CNSNSpec(kind="cn", position=position, crop=crop)
            sites = len(crossnorm_sites(insert(net, spec)))
            assert sites >= max(own["model.crossnorm.k"]["values"])
