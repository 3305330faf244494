"""Images cross to the device as bytes, or not at all where they stay there: the same batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.waiting_cases import cases
from data import classification, fixmatch
from data.augmentations.steps import AugMix, Cutout
from data.imagenet.module import ImageNet
from tasks.engine.cli import expected_recipe
from tests.fakes import write_cifar, write_imagenet

Make = Callable[[bool], Any]


def digits(resident: bool) -> Any:
    steps = [Cutout(), AugMix(width=1, depth=1)]
    return classification.Digits(batch_size=300, jitter=0.3, augment=steps, resident=resident)


def few_labels(resident: bool) -> Any:
    return fixmatch.Digits(
        labels=20, batch_size=8, unlabelled_ratio=2, steps_per_epoch=3, resident=resident
    )


def batches(data: Any, start: int, count: int) -> tuple[list[Any], list[Any]]:
    """Batches from the loader, and what the network gets of them."""
    data.setup("fit")
    data.load_state_dict({**data.state_dict(), "batches_seen": start})
    loader = data.train_dataloader()
    raw: list[Any] = []
    while len(raw) < count:
        raw += [batch for batch, _ in zip(loader, range(count - len(raw)), strict=False)]
    sizes = [bytes_of(batch) for batch in raw]
    return sizes, [data.on_after_batch_transfer(batch, 0) for batch in raw]


def bytes_of(batch: Any) -> int:
    if isinstance(batch, Tensor):
        return batch.nbytes
    return sum(map(bytes_of, batch.values())) if isinstance(batch, dict) else 0


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), [other[key] for key in one]
    if isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("make", [digits, few_labels])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_of_resident_images_are_those_of_the_loader(make: Make, start: int) -> None:
    """Over the ends of epochs, and from the middle of a resumed one."""
    sizes, there = batches(make(False), start, 6)
    few, here = batches(make(True), start, 6)
    assert_same(there, here)
    # A number each, and for FixMatch also the draw's, in the place of 16x16x3 bytes and a label.
    assert max(few) * 40 < min(sizes)


def test_a_run_is_the_same_run_with_resident_images(root: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(root)
    options = ["fit", "--config=configs/digits.yaml"]
    plain = expected_recipe("classification", options)
    assert plain == expected_recipe("classification", [*options, "--data.resident=true"])


def test_resident_by_itself_on_a_gpu_only(tmp_path: Path) -> None:
    from types import SimpleNamespace

    write_cifar(tmp_path)
    data = classification.CIFAR(str(tmp_path))
    data.setup("fit")
    for device, stays in (("cpu", False), ("cuda", True)):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            strategy=SimpleNamespace(root_device=torch.device(device))
        )
        read: Any = data.training_set()
        assert ("image" in read[[3, 1]]) != stays and len(read) == 200


@pytest.mark.parametrize(
    "name",
    [
        "classification",
        "fixmatch, none, 3 unlabelled images a labelled one",
        "segmentation, none",
        "adaptation, source, style of the target, adversary 1",
    ],
)
def test_images_are_bytes_until_the_device(name: str, tmp_path: Path) -> None:
    _, data = cases(tmp_path)[name]()
    assert_bytes(data)


def test_decoded_files_are_bytes_until_the_device(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    assert_bytes(ImageNet(str(tmp_path), batch_size=4, workers=0, image_size=16, corruptions=()))


def assert_bytes(data: Any) -> None:
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        images = [part for part in flattened(batch) if part.ndim == 4]
        assert images and all(part.dtype == torch.uint8 for part in images)
        ready = data.on_after_batch_transfer(batch, 0)
        maps = [part for part in flattened(ready) if part.ndim == 4]
        assert len(maps) >= len(images) and all(part.dtype == torch.float32 for part in maps)


def flattened(batch: Any) -> list[Tensor]:
    if isinstance(batch, dict):
        return [tensor for part in batch.values() for tensor in flattened(part)]
    return [batch] if isinstance(batch, Tensor) else []
