"""`data.prepare imagenet` and `imagenetc`, on small archives of the published ones' build."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.imagenet import layout as imagenet_layout
from data.imagenet.module import ImageNet
from data.prepare import __main__ as prepare
from data.prepare import imagenet as imagenet_sets
from data.prepare.__main__ import main
from tests.data.imagenet.imagenet_archives import (
    CLASSES,
    count_small,
    take_for_published,
    write_registered,
)
from tests.fakes import write_imagenet, write_imagenet_c

FAMILIES = ("noise", "blur", "weather", "digital")


# ------------------------------------------------------------------------------------ ImageNet-C


@pytest.fixture
def corrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the four archives, whose checksums `data.prepare` takes for the published."""
    count_small(monkeypatch)
    root = tmp_path / "data"
    root.mkdir()
    for family in FAMILIES:
        names = imagenet_layout.FAMILIES[family]
        write_imagenet_c(tmp_path / family, classes=CLASSES, corruptions=names, n=4)
        with tarfile.open(root / f"{family}.tar", "w") as archive:
            for name in names:
                archive.add(tmp_path / family / name, arcname=name)
        content = (root / f"{family}.tar").read_bytes()
        facts = (len(content), hashlib.md5(content).hexdigest())
        monkeypatch.setitem(imagenet_sets.ARCHIVES, family, facts)
    entry = imagenet_sets._imagenet_c(FAMILIES, "ImageNet-C", "x")
    monkeypatch.setitem(prepare.SETS, "imagenetc", entry)
    return root


def test_imagenet_c_is_unpacked_for_the_data_module(
    corrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagenetc", "--root", str(corrupted)]) == 0
    assert "Done: ImageNet-C is complete" in capsys.readouterr().out
    for archive in corrupted.glob("*.tar"):
        archive.unlink()
    assert main(["imagenetc", "--root", str(corrupted)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    write_imagenet(corrupted / "imagenet", classes=CLASSES, n=4)
    data = ImageNet(str(corrupted / "imagenet"), image_size=24, workers=0)
    data.setup("test")
    assert len(data.groups) == 76 and len(data._groups) == 76 * 4
    assert data.groups[1:7:5] == [("gaussian_noise", 1), ("shot_noise", 1)]


def test_imagenet_c_goes_on_with_what_is_missing(
    corrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blur = (corrupted / "blur.tar").read_bytes()
    (corrupted / "blur.tar").write_bytes(blur[:-1] + b"x")
    assert main(["imagenetc", "--root", str(corrupted)]) == 1
    assert "blur.tar is not the published file" in capsys.readouterr().err
    assert sorted(p.name for p in (corrupted / "ImageNet-C").iterdir()) == ["noise"]
    (corrupted / "blur.tar").write_bytes(blur)
    (corrupted / "noise.tar").unlink()
    assert main(["imagenetc", "--root", str(corrupted)]) == 0


def test_a_damaged_imagenet_c_is_not_taken_for_complete(
    corrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagenetc", "--root", str(corrupted)]) == 0
    next((corrupted / "ImageNet-C" / "weather" / "fog" / "3").glob("*/*")).unlink()
    assert main(["imagenetc", "--root", str(corrupted)]) == 1
    message = capsys.readouterr().err
    assert "fog/3 has 3 images of 2 classes" in message and "Move it away" in message


def test_the_catalogue_names_the_published_archives() -> None:
    entry = prepare.SETS["imagenetc"]
    assert isinstance(entry, prepare.Published)
    assert [file.name for file in entry.files] == [f"{family}.tar" for family in FAMILIES]
    assert all(file.url.startswith("https://zenodo.org/records/2235448/") for file in entry.files)
    assert all(file.md5 and len(file.md5) == 32 for file in entry.files)
    tested = {name for family in FAMILIES for name in imagenet_layout.FAMILIES[family]}
    assert tested == set(imagenet_layout.ALEXNET_ERRORS)


# -------------------------------------------------------------------------------------- ImageNet


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the three archives that registration gives."""
    root = tmp_path / "imagenet"
    root.mkdir()
    write_registered(root)
    take_for_published(root, monkeypatch)
    return root


def test_imagenet_is_sorted_into_classes(
    registered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagenet", "--root", str(registered)]) == 0
    assert "Done: ImageNet is complete" in capsys.readouterr().out
    data = ImageNet(str(registered), image_size=24, workers=0, corruptions=())
    data.setup("test")
    assert data.describe()["dataset"] == "ImageNet"
    (batch,) = data.test_dataloader()
    # Ground truth: images 2 and 3 are of the first class.
    assert batch["label"].tolist() == [0, 0, 1, 1]
    reds = batch["image"].float().mean((2, 3))[:, 0].round()
    assert (reds - np.array([102, 103, 101, 104])).abs().max() <= 1
    assert main(["imagenet", "--root", str(registered)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_imagenet_asks_for_what_is_missing(
    registered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = registered / "ILSVRC2012_img_train.tar"
    content = train.read_bytes()
    train.unlink()
    assert main(["imagenet", "--root", str(registered)]) == 1
    message = capsys.readouterr().err
    assert "image-net.org" in message and "missing are ILSVRC2012_img_train.tar." in message
    train.write_bytes(content[:-1] + b"x")
    assert main(["imagenet", "--root", str(registered)]) == 1
    message = capsys.readouterr().err
    assert (
        "ILSVRC2012_img_train.tar is not present in the root directory or is corrupted" in message
    )
    assert not (registered / "train").exists()
    (registered / "train.unfinished").mkdir()
    train.write_bytes(content)
    assert main(["imagenet", "--root", str(registered)]) == 0


def test_imagenet_says_when_the_disk_is_full(
    registered: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imagenet_sets, "UNPACKED", {"train": 1 << 60, "val": 1})
    assert main(["imagenet", "--root", str(registered)]) == 1
    assert "free space or move the archives" in capsys.readouterr().err
    assert not list(registered.glob("train*"))
