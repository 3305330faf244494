"""Options belong to the class that they were given to."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tasks.classification.module import main
from tasks.engine.cli import expected_recipe

pytestmark = pytest.mark.usefixtures("in_the_repository")

CIFAR, DIGITS = "--config=configs/cifar10.yaml", "--data=data.classification.Digits"
WIDE, CHAIN = "--config=configs/nets/wide_resnet.yaml", "--config=configs/nets/allconv.yaml"


NETWORK, DATA = ("model", "network"), ("data",)
ALLCONV = "--model.network=cnsn.nets.AllConv"


@pytest.mark.parametrize(
    ("part", "first", "then"),
    [
        (NETWORK, [WIDE], [CHAIN]),
        (NETWORK, [WIDE], [ALLCONV]),
        (NETWORK, [WIDE], [ALLCONV, "--model.network.dropout=0.1"]),
        (NETWORK, [WIDE], ['--model.network={"class_path": "cnsn.nets.AllConv"}']),
        (NETWORK, [WIDE, "--model.network.width=3"], [CHAIN]),
        (DATA, ["--data.padding=2"], [DIGITS]),
        (DATA, ["--data.batch_size=7"], [DIGITS, "--data.padding=1"]),
        (
            DATA,
            ["--data.augment=[{class_path: CutMix, init_args: {p: 0.2}}]"],
            ["--data.augment=[{class_path: Mixup}]"],
        ),
    ],
)
def test_a_class_named_later_has_its_own_defaults(
    part: tuple[str, ...], first: list[str], then: list[str]
) -> None:
    """It is as if the class had been named alone."""
    common = ["fit", CIFAR, "--trainer.max_epochs=1"]
    network = [] if part == NETWORK else [WIDE]
    both = expected_recipe("classification", [*common, *network, *first, *then])
    alone = expected_recipe("classification", [*common, *network, *then])
    assert both is not None and alone is not None
    for name in part:
        both, alone = both[name], alone[name]
    assert both == alone


def test_of_one_class_options_add_up() -> None:
    given = [WIDE, CHAIN, "--model.network.width=3", WIDE, WIDE, "--model.network.depth=16"]
    recipe = expected_recipe("classification", ["fit", CIFAR, *given])
    assert recipe is not None
    network = {"class_path": "cnsn.nets.WideResNet", "init_args": {"depth": 16}}
    assert recipe["model"]["network"] == network  # its width is the default, 2
    assert recipe["data"]["init_args"] == {}  # as CIFAR's own


def test_what_is_dropped_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit):
        main(["fit", CIFAR, WIDE, CHAIN, DIGITS, "--print_config"])
    said = [m for m in caplog.messages if "takes the place" in m]
    assert said == [
        "AllConv takes the place of WideResNet, whose options do not hold for it: depth 40, "
        "width 2.",
        "Digits takes the place of CIFAR, whose options do not hold for it: name cifar10, "
        "batch_size 128.",
    ]
    assert "width: 96" in capsys.readouterr().out


def test_one_class_by_two_names_keeps_its_options() -> None:
    """It is also one run."""
    digits = ["fit", "--config=configs/digits.yaml"]
    plain = expected_recipe("classification", digits)
    where = "--model.network=cnsn.nets.wide_resnet.WideResNet"
    assert expected_recipe("classification", [*digits, where]) == plain
