from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from data.classification.cifar import CIFAR, is_original, read_cifar
from data.errors import DataNotFoundError
from tests.fakes import write_cifar


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_reads_what_torchvision_reads(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, name=name)
    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr(reader, "_load_meta", lambda self: None)
    for train in (True, False):
        images, labels = read_cifar(tmp_path, name, train=train)  # type: ignore[arg-type]
        reference = reader(str(tmp_path), train=train)
        assert np.array_equal(images, reference.data)
        assert labels.tolist() == reference.targets


def test_the_batches_folder_itself_is_a_root(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    inner = read_cifar(tmp_path / "cifar-10-batches-py", train=False)
    assert np.array_equal(inner[0], read_cifar(tmp_path, train=False)[0])


def test_a_subset_is_called_one(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    assert not is_original(tmp_path, "cifar10")
    data = CIFAR(str(tmp_path))
    with pytest.warns(UserWarning, match=r"called cifar10-subset \(200\+40 images\)") as warned:
        data.setup("fit")
    assert len(warned) == 1 and data.describe()["dataset"] == "cifar10-subset (200+40 images)"


def test_missing_root_names_layout_and_remedies(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as error:
        read_cifar(tmp_path / "nowhere", train=True)
    for part in ("nowhere", "cifar-10-batches-py", "python -m data.prepare cifar10", "digits.yaml"):
        assert part in str(error.value)


def damage(path: Path, kind: str) -> None:
    batch = pickle.loads(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
        return
    if kind == "too few labels":
        batch["labels"] = batch["labels"][:-1]
    elif kind == "label out of range":
        batch["labels"][0] = 10
    elif kind == "wrong width":
        batch["data"] = batch["data"][:, :100]
    elif kind == "floats":
        batch["data"] = batch["data"].astype(np.float32)
    elif kind == "no labels":
        del batch["labels"]
    path.write_bytes(pickle.dumps(batch))


@pytest.mark.parametrize(
    "kind",
    ["truncated", "too few labels", "label out of range", "wrong width", "floats", "no labels"],
)
def test_damaged_batches_are_named(tmp_path: Path, kind: str) -> None:
    path = write_cifar(tmp_path) / "cifar-10-batches-py" / "data_batch_3"
    damage(path, kind)
    with pytest.raises(ValueError, match="data_batch_3"):
        read_cifar(tmp_path, train=True)


def test_a_part_without_images_is_refused(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "cifar-10-batches-py" / "test_batch"
    empty = {"data": np.zeros((0, 3072), np.uint8), "labels": []}
    path.write_bytes(pickle.dumps(empty))
    with pytest.raises(ValueError, match="Expected test images in"):
        read_cifar(tmp_path, train=False)
    # Of several files of a part, one may be empty.
    path.with_name("data_batch_5").write_bytes(path.read_bytes())
    assert len(read_cifar(tmp_path, train=True)[0]) == 4 * 40


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "cifar-10-batches-py" / "test_batch"
    witness = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(witness),)

    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match="test_batch"):
        read_cifar(tmp_path, train=False)
    assert not witness.exists()


def test_corrupted_images_of_another_size_are_refused_with_both(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    images, labels = read_cifar(tmp_path, train=False)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    np.save(folder / "fog.npy", np.tile(images.repeat(2, 1).repeat(2, 2), (5, 1, 1, 1)))
    with pytest.warns(UserWarning, match="subset"):
        data = CIFAR(str(tmp_path), corruptions=["fog"])
        data.setup("fit")
    with pytest.raises(ValueError, match=r"fog\.npy to be 32x32, as .*, but got 64x64"):
        data.setup("test")
