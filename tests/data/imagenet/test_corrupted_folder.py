from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.corruptions.recipes import corrupt
from data.imagenet import corrupted as corrupted_folder
from data.imagenet import module as imagenet
from data.imagenet.module import ImageNet
from data.prepare.__main__ import main
from tests.fakes import CLASS_NAMES, write_imagenet

NAMES = ("gaussian_noise", "contrast")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_imagenet(tmp_path / "set", n=4)


def make(folder: Path, *more: str) -> int:
    options = ["--root", str(folder), "--image_size", "24", "--corruptions", *NAMES]
    return main(["corrupt_folder", *options, *(more or ("--workers", "1"))])


def contents(base: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and path.suffix == ".png"
    }


def test_images_are_the_generators(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(folder) == 0
    out = folder.with_name("set-C")
    assert f"Done: {out}" in capsys.readouterr().out
    middle = transforms.Compose([transforms.Resize(27), transforms.CenterCrop(24)])
    clean = [np.asarray(image) for image, _ in ImageFolder(folder / "val", middle)]
    squares = torch.from_numpy(np.stack(clean)).permute(0, 3, 1, 2)
    for name in NAMES:
        for severity in (1, 4):
            expected = corrupt(squares, name, severity, seed=0)
            found = ImageFolder(out / name / str(severity))
            assert found.classes == list(CLASS_NAMES) and len(found) == 6
            for (image, _), pixels in zip(found, expected, strict=True):
                assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())


def test_the_data_module_uses_it_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(folder, "--seed", "3", "--workers", "1") == 0
    data = ImageNet(str(folder), image_size=24, workers=0, corruptions=NAMES)
    data.setup("test")
    assert sum(len(batch["label"]) for batch in data.test_dataloader()) == 11 * 6
    described = data.describe()
    assert described["dataset"] == "imagenet-subset (3 classes, 12+6 images, corruptions made here)"
    assert described["corruptions_made_with"]["seed"] == 3
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    assert data.reference_errors() is None


@pytest.mark.slow
def test_workers_do_not_change_it(folder: Path) -> None:
    out = folder.with_name("set-C")
    assert make(folder) == 0
    alone = contents(out)
    shutil.rmtree(out)
    assert make(folder, "--workers", "2") == 0
    assert contents(out) == alone


def test_an_interruption_does_not_change_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.with_name("set-C")
    assert make(folder) == 0
    whole = contents(out)
    assert len(whole) == 2 * 5 * 6
    shutil.rmtree(out)

    replace = os.replace

    def stop(source: Path, target: Path) -> None:
        if len(contents(out)) == 17:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(corrupted_folder.os, "replace", stop)
        assert make(folder) == 130
    assert not (out / "contrast" / "5").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    monkeypatch.setattr(corrupted_folder, "CHUNK", 6)
    assert make(folder) == 0
    assert contents(out) == whole and len(kept) == 17
    capsys.readouterr()
    assert make(folder) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_other_images_or_options_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.with_name("set-C")
    assert make(folder) == 0
    before = contents(out)
    assert make(folder, "--seed", "1") == 1
    assert "another seed: give another --out" in capsys.readouterr().err
    next((folder / "val" / CLASS_NAMES[0]).iterdir()).unlink()
    assert make(folder) == 1
    assert "another source" in capsys.readouterr().err
    assert contents(out) == before
    (out / "corrupted.json").unlink()
    assert make(folder) == 1
    assert "they may be the published ones" in capsys.readouterr().err


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corrupt_folder", "--root", str(tmp_path / "none")]) == 1
    assert "none/val" in capsys.readouterr().err
    assert make(folder, "smog") == 1
    assert "smog" in capsys.readouterr().err
    image = next((folder / "val" / CLASS_NAMES[0]).iterdir())
    shutil.copy(image, image.with_suffix(".png"))
    assert make(folder) == 1
    assert "differ in more than the ending" in capsys.readouterr().err
    image.with_suffix(".png").unlink()
    image.write_bytes(b"x")
    assert make(folder) == 1
    assert f"{image} to be a whole image" in capsys.readouterr().err
