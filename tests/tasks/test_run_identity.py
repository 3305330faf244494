"""A run is known by what was asked for: not by where one stands, nor by where its files lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.cli import expected_recipe
from tasks.run_directory import RunDirectory, digests_of

# Of the version whose hashes held the places of data, as it gave them: a command line of each task
# with that hash, and today's.
KNOWN = {
    "classification --config configs/cifar10.yaml --config configs/nets/wide_resnet.yaml "
    "--data.root /sets/cifar --model.cnsn.kind cnsn --model.cnsn.crop both --model.crossnorm.k 2 "
    "--seed_everything 3": ("16006e85", "5af0ff40"),
    "classification --config configs/imagenet.yaml --config configs/nets/resnet50.yaml --data.root "
    "/sets/imagenet --data.corrupted /sets/imagenetc --model.weights "
    "ResNet50_Weights.IMAGENET1K_V1": ("580eae7e", "78b93e54"),
    "classification --config configs/digits.yaml": ("5361d9bf", "5361d9bf"),
    "fixmatch --config configs/fixmatch.yaml --data.root /sets/cifar --data.labels 250 "
    "--model.cnsn.kind cn": ("b0f9c45f", "11b2aaa3"),
    "segmentation --config configs/gta5.yaml --data.root /sets --data.source_root /sets/gta5 "
    "--data.target_root /sets/cityscapes": ("c218a9c3", "c58bcb0a"),
    "text --config configs/sst2.yaml --data.imdb /sets/imdb --data.sst2 /sets/sst2": (
        "b0ccc4ac",
        "768682d4",
    ),
    "adaptation --config configs/office31.yaml --data.root /sets/office31 --data.source amazon "
    "--data.target webcam --model.cnsn.kind cnsn": ("609ed7a2", "6e596f97"),
}

pytestmark = pytest.mark.usefixtures("in_the_repository")


def recipe_of(command: str) -> dict[str, Any]:
    task, *arguments = command.split()
    recipe = expected_recipe(task, ["fit", *arguments])
    assert recipe is not None
    return recipe


@pytest.mark.parametrize("command", KNOWN)
def test_runs_of_the_version_before_are_found(tmp_path: Path, command: str) -> None:
    before, now = KNOWN[command]
    assert digests_of(recipe_of(command)) == (now, before)
    moved = recipe_of(command.replace("/sets/", "/elsewhere/"))
    assert digests_of(moved)[0] == now
    directory = RunDirectory(tmp_path, seed=0, digest=now, older=[before])
    assert directory.path.name == f"seed0-{now}"
    (tmp_path / f"seed0-{before}").mkdir()
    assert RunDirectory(tmp_path, seed=0, digest=now, older=[before]).path.name.endswith(before)


def test_the_working_directory_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    command = f"segmentation --config {root}/configs/gta5.yaml --data.source_root source "
    here = recipe_of(command)
    monkeypatch.chdir(tmp_path)
    assert digests_of(recipe_of(command))[0] == digests_of(here)[0]
