"""The CIFAR tables against the released scripts' options, copied here by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cnsn import CNSNSpec, insert
from cnsn.insert import crossnorm_sites
from tasks.tables.runner import Run
from tasks.tables.spec import Row, Table

# Network; data set; position, crop, p and k of CN, the position of SN, then as CN's for CNSN,
# CNSN with consistency and CNSN with AugMix. Positions are the scripts' words.
RECIPES = """
WRN C10  | post neither .5 2 | pre | post both .25 2 | post both .75 2 | post style .75 1
WRN C100 | post neither .5 2 | post | post both .25 2 | post both .5 2 | post both .25 2
RNX C10  | post neither .5 1 | pre | post neither .25 1 | post neither .5 1 | post neither .25 1
RNX C100 | post neither .25 1 | residual | post neither .5 1 | post neither .25 1| post neither .5 1
DN C10  | pre neither .25 1 | post | pre both .5 1 | pre content .25 1 | pre both .5 2
DN C100 | pre neither .25 1 | pre | pre both .25 2 | pre neither .25 2 | pre both .5 1
AC C10  | 1 neither .5 1 | 1 | 1 style .5 2 | 1 style .75 2 | 1 style .25 1
AC C100 | 1 neither .5 1 | 1 | 1 style .5 1 | 1 style .25 1 | 1 style .25 1
"""
NETWORKS = {"WRN": "WideResNet-40-2", "RNX": "ResNeXt-29", "DN": "DenseNet-40", "AC": "AllConv"}
# Their names here, where they differ; DenseNet's are "conv1_pre" and "conv1_post" in full.
SITES = {
    ("ResNeXt-29", "post"): "out",
    ("DenseNet-40", "pre"): "conv1_pre",
    ("DenseNet-40", "post"): "conv1_post",
    ("AllConv", "1"): "conv",
}
# Epochs and weight decay; all share the learning rate 0.1 and batches of 128.
SCHEDULES = {
    "WideResNet-40-2": ("wide_resnet", 100, 5e-4),
    "ResNeXt-29": ("resnext", 200, 5e-4),
    "DenseNet-40": ("densenet", 200, 1e-4),
    "AllConv": ("allconv", 100, 5e-4),
}
EXCEPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("ResNeXt-29", "cifar100c"): {"data.batch_size": 64, "model.optimizer.lr": 0.05},
    ("DenseNet-40", "cifar100c"): {"data.batch_size": 64},
}
OURS = ["CN", "SN", "CNSN", "CNSN+consistency", "CNSN+AugMix"]
RIVALS = {
    "baseline": None,
    "Cutout": "cutout",
    "Mixup": "mixup",
    "CutMix": "cutmix",
    "AutoAugment": "autoaugment",
    "adversarial training": "adversarial",
    "AugMix": "augmix",
}
KEYS = ["cifar10c", "cifar100c"]


def load(root: Path, key: str) -> Table:
    return Table.load(root / "configs" / "paper" / f"{key}.yaml")


def options(network: str, key: str, method: str, cell: str) -> dict[str, Any]:
    """The options that a cell of the recipes asks for."""
    words = cell.split()
    position = SITES.get((network, words[0]), words[0])
    kind = method.split("+")[0].lower()
    asked: dict[str, Any] = {"model.cnsn.kind": kind, "model.cnsn.position": position}
    if len(words) > 1:
        asked["model.cnsn.crop"] = words[1]
        asked["model.crossnorm.p"] = float(words[2])
        asked["model.crossnorm.k"] = int(words[3])
    if "+" in method:
        asked["model.crossnorm.consistency"] = 10
    if method == "CNSN+consistency":
        asked.update(EXCEPTIONS.get((network, key), {}))
    return asked


@pytest.mark.parametrize("key", KEYS)
def test_rows_are_the_recipes(root: Path, key: str) -> None:
    table = load(root, key)
    number = key.removeprefix("cifar").removesuffix("c")
    assert table.dataset == f"CIFAR-{number}" and table.task == "classification"
    assert table.configs == [f"configs/cifar{number}.yaml"]
    rows = {(row.network, row.name): row for row in table.rows}
    assert len(rows) == len(table.rows) == 4 * (len(RIVALS) + len(OURS))
    for line in RECIPES.strip().splitlines():
        name, *cells = line.split("|")
        network, number = name.split()
        if f"cifar{number[1:]}c" != key:
            continue
        network = NETWORKS[network]
        net = f"configs/nets/{SCHEDULES[network][0]}.yaml"
        for method, cell in zip(OURS, cells, strict=True):
            row = rows[network, method]
            augmix = ["configs/augment/augmix.yaml"] if method.endswith("AugMix") else []
            assert row.configs == [net, *augmix], row.key
            assert row.options == options(network, key, method, cell), row.key
        for method, file in RIVALS.items():
            row = rows[network, method]
            if (key, method) == ("cifar100c", "Cutout"):
                # Its authors' size on CIFAR-100.
                (step,) = row.options["data.augment"]
                assert step["init_args"] == {"size": 8} and row.configs == [net]
                continue
            assert row.configs == [net, *([f"configs/augment/{file}.yaml"] if file else [])]
            assert row.options == {}


def test_schedules_of_the_networks(root: Path) -> None:
    for file, epochs, decay in SCHEDULES.values():
        config = yaml.safe_load((root / "configs" / "nets" / f"{file}.yaml").read_text())
        assert config["trainer"] == {"max_epochs": epochs}
        asked = {name: float(value) for name, value in config["model"]["optimizer"].items()}
        assert asked == {"lr": 0.1, "weight_decay": decay}
    for key in ("cifar10", "cifar100"):
        config = yaml.safe_load((root / "configs" / f"{key}.yaml").read_text())
        assert config["data"]["init_args"]["batch_size"] == 128


@pytest.mark.parametrize("key", KEYS)
def test_others_values_are_whole(root: Path, key: str) -> None:
    """Fifteen corruptions whose mean is the value beside them; the paper's is close by."""
    rows = {(row.network, row.name): row for row in load(root, key).rows}
    parts = {k: row for k, row in rows.items() if row.independent_per_corruption}
    networks = ("WideResNet-40-2", "ResNeXt-29")
    assert set(parts) == {(n, m) for n in networks for m in OURS if m != "CNSN+consistency"}
    for row in parts.values():
        assert row.independent is not None and row.independent_per_corruption is not None
        assert len(row.independent_per_corruption) == 15
        assert sum(row.independent_per_corruption) / 15 == pytest.approx(row.independent, abs=1e-3)
        assert row.reported == pytest.approx(row.independent, rel=0.08)
    known = {k: (row.reported, row.independent) for k, row in rows.items() if k not in parts}
    augmix = {
        "cifar10c": {"WideResNet-40-2": (None, 11.18), "ResNeXt-29": (10.9, 10.91)},
        "cifar100c": {"WideResNet-40-2": (None, 35.89), "ResNeXt-29": (None, 34.86)},
    }
    assert {k[0]: v for k, v in known.items() if v != (None, None)} == augmix[key]
    assert all(v == (None, None) for k, v in known.items() if k[1] != "AugMix")


def spec_of(row: Row) -> CNSNSpec:
    fields = {k.split(".")[-1]: v for k, v in row.options.items() if k.startswith("model.cnsn.")}
    return CNSNSpec(**fields)


@pytest.mark.parametrize("key", KEYS)
def test_every_row_can_be_built(root: Path, key: str) -> None:
    for row in load(root, key).rows:
        config = yaml.safe_load((root / row.configs[0]).read_text())["model"]["network"]
        module, _, name = config["class_path"].rpartition(".")
        with torch.device("meta"):
            build = getattr(importlib.import_module(module), name)
            net = insert(build(num_classes=100, **config.get("init_args", {})), spec_of(row))
        assert len(crossnorm_sites(net)) >= row.options.get("model.crossnorm.k", 0), row.key


def parsed(row: Row, table: Table) -> str | None:
    return Run(table=table, row=row, seed=0).digest()


@pytest.mark.usefixtures("in_the_repository")
def test_command_lines_are_understood(root: Path) -> None:
    """One row of each kind; the others below."""
    table = load(root, "cifar100c")
    wanted = {
        "AllConv": "Mixup",
        "DenseNet-40": "CNSN+consistency",
        "WideResNet-40-2": "Cutout",
        "ResNeXt-29": "CNSN+AugMix",
    }
    for row in table.rows:
        if wanted.get(row.network) == row.name:
            assert parsed(row, table) is not None, row.key


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_repository")
@pytest.mark.parametrize("key", KEYS)
def test_every_command_line_is_understood(root: Path, key: str) -> None:
    table = load(root, key)
    digests = {row.key: parsed(row, table) for row in table.rows}
    assert None not in digests.values(), [k for k, digest in digests.items() if digest is None]
    assert len(set(digests.values())) == len(table.rows)
