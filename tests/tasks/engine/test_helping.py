"""What a person reads who asks for help, and the short names that it lists."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tasks import all_tasks
from tasks.__main__ import listed
from tasks.engine.cli import expected_recipe
from tasks.runs.recipe import digests_of

pytestmark = pytest.mark.usefixtures("in_the_repository")


def helped(capsys: pytest.CaptureFixture[str], task: str, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        import_module(f"tasks.{task}").main([*arguments])
    assert stop.value.code in (0, None)
    return capsys.readouterr().out


def test_every_task_and_tool_has_a_line(root: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tasks"], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    for name in all_tasks():
        assert f"python -m tasks.{name} " in found
    for tool in ("tasks.report", "tasks.visualize", "data.prepare", "cnsn.checkpoint"):
        assert f"python -m {tool} " in found
    assert all(purpose.strip() for lines in listed().values() for _, purpose in lines)


@pytest.mark.parametrize("task", sorted(all_tasks()))
def test_help_is_a_page_of_our_options(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = helped(capsys, task, "fit", "--help").splitlines()
    assert len(lines) <= 150
    headings = [line.partition(":")[0].partition(" (")[0] for line in lines if line[:1].isalpha()]
    assert [h for h in headings if h in ("method", "network", "data", "optimiser", "run")] == [
        *("method", "network", "data", "optimiser", "run")
    ]
    kind = all_tasks()[task]
    text = "\n".join(lines)
    assert all(name in text for name in (*kind.NETWORKS, *kind.SETS))
    for option in ("model.cnsn.kind", "model.crossnorm.p", "data.batch_size", "runs", "fresh"):
        assert re.search(rf"^  --{option} ", text, re.M), option
    assert "--help=all" in text


def test_all_options_are_still_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--trainer.sync_batchnorm" in helped(capsys, "classification", "fit", "--help=all")


def test_data_help_is_of_the_configuration_s_data(capsys: pytest.CaptureFixture[str]) -> None:
    page = helped(capsys, "classification", "fit", "--config=configs/cifar10.yaml", "--data.help")
    assert "data.classification" in page and "--data.corrupted" in page
    page = helped(capsys, "classification", "fit", "--data", "ImageNet", "--data.help")
    assert "--data.image_size" in page


@pytest.mark.parametrize(
    ("task", "short", "full"),
    [
        (
            "classification",
            ["--data", "CIFAR100", "--model.network=WideResNet", "--model.network.depth=40"],
            [
                *("--data=data.classification.CIFAR", "--data.name=cifar100"),
                *("--model.network=cnsn.nets.WideResNet", "--model.network.depth=40"),
            ],
        ),
        (
            "classification",
            ["--config=configs/cifar10.yaml", "--model.network", "ResNet50"],
            ["--config=configs/cifar10.yaml", "--config=configs/nets/resnet50.yaml"],
        ),
        (
            "fixmatch",
            ["--data=CIFAR10", "--model.network", "AllConv"],
            ["--data=data.fixmatch.CIFAR", "--model.network", "cnsn.nets.AllConv"],
        ),
    ],
)
def test_short_names_ask_for_the_same_run(task: str, short: list[str], full: list[str]) -> None:
    one, other = (
        expected_recipe(task, ["fit", *options, "--trainer.max_epochs=1"])
        for options in (short, full)
    )
    assert one is not None and other is not None
    assert one == other and digests_of(one) == digests_of(other)
