"""A training hears at its start what its test would end with: missing corrupted images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import classification, fixmatch
from data.classification.module import ImageClassificationData
from data.corruptions.arrays import write_corrupted
from data.errors import DataNotFoundError
from data.imagenet.module import ImageNet
from tests.fakes import TWO_CORRUPTIONS, write_cifar, write_imagenet, write_imagenet_c

CIFARS = (classification.CIFAR, fixmatch.CIFAR)
Make = Callable[..., ImageClassificationData]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words: list[str] = []
    monkeypatch.setattr("data.classification.module.rank_zero_info", words.append)
    return words


def cifar(make: Make, root: Path, **options: Any) -> ImageClassificationData:
    few = {"batch_size": 2, "labels": 10} if make is fixmatch.CIFAR else {}
    return make(str(root), **{"corruptions": ["fog"], **few, **options})


def same_words(data: ImageClassificationData, said: list[str]) -> str:
    """Of the training's notice and of the test's end."""
    data.setup("fit")
    with pytest.raises(DataNotFoundError) as error:
        data.setup("test")
    (notice,) = said
    said.clear()
    assert notice == f"Training needs no corrupted images, but `test` will: {error.value}"
    return notice


@pytest.mark.filterwarnings("ignore:.*has the layout of")
@pytest.mark.parametrize("make", CIFARS)
def test_cifar_says_what_is_missing(make: Make, tmp_path: Path, said: list[str]) -> None:
    root = write_cifar(tmp_path / "data")
    assert "python -m data.prepare cifar10c" in same_words(cifar(make, root), said)
    elsewhere = cifar(make, root, corrupted=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in same_words(elsewhere, said)
    cifar(make, root).setup("validate")
    clean = cifar(make, root, corruptions=[])
    clean.setup("fit")
    assert said == []
    images, labels = clean._test  # type: ignore[misc]
    write_corrupted(images, np.asarray(labels), root / "CIFAR-10-C", corruptions=["fog"])
    whole = cifar(make, root)
    whole.setup("fit")
    whole.setup("test")
    assert said == []
    (root / "CIFAR-10-C" / "labels.npy").unlink()
    assert "labels.npy" in same_words(cifar(make, root), said)


def test_imagenet_says_what_is_missing(tmp_path: Path, said: list[str]) -> None:
    def data() -> ImageNet:
        return ImageNet(str(root), corruptions=TWO_CORRUPTIONS, image_size=24, workers=0)

    root = write_imagenet(tmp_path / "imagenet")
    assert "python -m data.prepare imagenetc" in same_words(data(), said)
    folder = write_imagenet_c(tmp_path / "ImageNet-C")
    data().setup("fit")
    assert said == []
    shutil.rmtree(folder / "fog" / "3")
    assert "fog 3" in same_words(data(), said)


def test_digits_miss_nothing(said: list[str]) -> None:
    classification.Digits().setup("fit")
    assert said == []
