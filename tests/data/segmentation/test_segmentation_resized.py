from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.prepare.__main__ import main
from data.segmentation.layouts import open_collection
from data.segmentation.sets import read_pair
from tests.segmentation_fakes import write_cityscapes, write_gta5


def run(root: Path, out: Path, *more: str) -> int:
    return main(["resized", "--root", str(root), "--out", str(out), "--workers", "1", *more])


def test_the_copy_is_smaller_and_used_like_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write_gta5(tmp_path / "gta5", 10), tmp_path / "half"
    assert run(root, out) == 0
    original, copy = (open_collection(r, ("train", "val")) for r in (root, out))
    assert [p.name for p in copy.parts["train"]] == [p.name for p in original.parts["train"]]
    for before, after in zip(original.parts["train"], copy.parts["train"], strict=True):
        assert (after.height, after.width) == (before.height // 2, before.width // 2)
        image, mask = read_pair(after)
        whole, whole_mask = read_pair(before)
        # Halving takes one pixel of every 2x2 block of labels, and about the mean of the image's.
        blocks = whole_mask.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)
        assert (blocks == mask[..., None]).any(-1).all()
        means = whole.float().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
        assert (image.float() - means).abs().mean() < 8
    assert "20 new files" in capsys.readouterr().out
    assert run(root, out) == 0 and "is complete" in capsys.readouterr().out
    (out / "images" / "00003.png").unlink()
    assert run(root, out) == 0 and "1 new files" in capsys.readouterr().out
    assert run(root, out, "--scale", "0.25") == 1
    assert "made with" in capsys.readouterr().err


def test_cityscapes_and_jpeg_images(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "c", 2, kind="labelTrainIds")
    for path in root.rglob("*_leftImg8bit.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert run(root, tmp_path / "out", "--scale", "0.75") == 0
    pairs = open_collection(tmp_path / "out", ("val",)).parts["val"]
    assert [(p.height, p.width, p.image.suffix) for p in pairs] == [(18, 24, ".png")] * 2


def test_bad_files_are_all_named_and_the_rest_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write_gta5(tmp_path / "gta5", 10), tmp_path / "half"
    (root / "images" / "00002.png").write_bytes(b"no image")
    Image.fromarray(np.full((24, 32), 99, np.uint8)).save(root / "labels" / "00005.png")
    assert run(root, out) == 1
    message = capsys.readouterr().err
    assert "2 of 20 files" in message and "00002.png" in message
    assert "00005.png" in message and "99 (768 pixels)" in message
    assert len(list(out.rglob("*.png"))) == 18 and not list(out.rglob("*.part"))


def test_bad_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    for options, part in (
        ((tmp_path / "none", tmp_path / "out"), "found neither"),
        ((root, root), "another folder"),
        ((root, tmp_path / "out", "--scale", "2"), "(0, 1]"),
        ((write_gta5(tmp_path / "other", 10), root), "other files"),
    ):
        assert run(*options) == 1  # type: ignore[arg-type]
        assert part in capsys.readouterr().err
