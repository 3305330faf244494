from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataNotFoundError
from data.segmentation import layouts as segmentation_layouts
from data.segmentation import splits as segmentation_splits
from data.segmentation.layouts import Collection, find_layout, open_collection
from data.segmentation.sets import read_pair
from tests.segmentation_fakes import street, write_cityscapes, write_gta5, write_split


def names(found: Collection, part: str) -> list[str]:
    return [pair.name for pair in found.parts[part]]


def test_split_file_decides_where_it_is_there(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    found = open_collection(root, ("train", "val"))
    assert names(found, "train") == [f"{i:05d}" for i in range(1, 7)]
    assert names(found, "val") == ["00007", "00008"]
    assert found.notes == [] and found.title is None
    assert names(open_collection(root, ("val",)), "val") == ["00007", "00008"]
    # In a folder of the root, as its archive unpacks.
    (root / "read_mapping").mkdir()
    (root / "split.mat").rename(root / "read_mapping" / "split.mat")
    assert names(open_collection(root, ("val",)), "val") == ["00007", "00008"]
    image, mask = read_pair(found.parts["train"][0])
    expected, ids = street(1)
    assert (image.permute(1, 2, 0).numpy() == expected).all()
    for train_id, label_id in ((13, 26), (255, 0), (0, 7)):
        assert ((mask.numpy() == train_id) == (ids == label_id)).all()


def test_without_split_file_the_split_is_fixed_and_said(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 20, split=False)
    found, again = (open_collection(root, ("train", "val")) for _ in range(2))
    train, val = names(found, "train"), names(found, "val")
    assert len(train) == 16 and len(val) == 4 and not set(train) & set(val)
    assert names(again, "train") == train and train != sorted(train + val)[:16]
    assert "no split.mat" in found.notes[0] and "16" in found.notes[0]
    # A target is scored on all of its images.
    assert len(open_collection(root, ("val",)).parts["val"]) == 20


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_with_either_kind_of_labels(tmp_path: Path, kind: str) -> None:
    root = write_cityscapes(tmp_path / "cityscapes", 4, parts=("train", "val"), kind=kind)
    found = open_collection(root, ("train", "val"))
    assert names(found, "val")[0] == "aachen_000000_000019" and len(found.parts["val"]) == 4
    _, mask = read_pair(found.parts["val"][0])
    assert sorted(np.unique(mask)) == [0, 10, 13, 255]


def test_mapped_labels_of_gta5(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    expected = read_pair(open_collection(root, ("val",)).parts["val"][0])[1]
    for path in (root / "labels").iterdir():
        mapped = segmentation_layouts.Path(root / "labels_mapped" / path.name)
        mapped.parent.mkdir(exist_ok=True)
        from data.segmentation.label_files import read_label

        Image.fromarray(read_label(path, "ids")).save(mapped)
        path.unlink()
    (root / "labels").rmdir()
    pair = open_collection(root, ("val",)).parts["val"][0]
    assert pair.kind == "train_ids" and (read_pair(pair)[1] == expected).all()


def test_pairs_of_different_sizes_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    Image.new("L", (30, 24)).save(root / "labels" / "00003.png")
    found = open_collection(root, ("train", "val"))
    assert names(found, "train") == ["00001", "00002", "00004", "00005", "00006"]
    assert found.left_out["train"] == ["00003 (image 32x24, labels 30x24)"]
    assert "1 image in" in found.notes[0] and "00003" in found.notes[0]
    for path in (root / "labels").iterdir():
        Image.new("L", (30, 24)).save(path)
    with pytest.raises(ValueError, match=r"all 6 differ.*resized"):
        open_collection(root, ("train", "val"))


def test_published_sets_get_their_names_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gta5, cityscapes = write_gta5(tmp_path / "gta5", 10), write_cityscapes(tmp_path / "c", 4)
    assert open_collection(gta5, ("train", "val")).title is None
    assert open_collection(cityscapes, ("val",)).title is None
    monkeypatch.setattr(segmentation_splits, "GTA5_SPLIT", (6, 2, 2))
    monkeypatch.setattr(segmentation_layouts, "GTA5_SIZE", (24, 32))
    monkeypatch.setattr(segmentation_layouts, "CITYSCAPES_SPLIT", {"train": 9, "val": 4})
    assert open_collection(gta5, ("train", "val")).title == "GTA5"
    assert open_collection(cityscapes, ("val",)).title == "Cityscapes resized to 32x24"
    (gta5 / "images" / "00001.png").unlink()
    partial = open_collection(gta5, ("train", "val"))
    assert partial.title is None and "5 of them are there" in partial.notes[0]


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    before = open_collection(root, ("train", "val")).fingerprint()
    assert open_collection(root, ("train", "val")).fingerprint() == before
    image, _ = street(77)
    Image.fromarray(image).save(root / "images" / "00001.png")
    assert open_collection(root, ("train", "val")).fingerprint() != before


def test_bad_roots_are_refused(tmp_path: Path) -> None:
    assert find_layout(tmp_path) is None
    with pytest.raises(DataNotFoundError, match="neither"):
        open_collection(tmp_path, ("val",))
    root = write_gta5(tmp_path / "gta5", 10)
    (root / "labels" / "00002.png").unlink()
    with pytest.raises(DataNotFoundError, match=r"6 images.*1 are missing: labels/00002.png"):
        open_collection(root, ("train", "val"))
    write_split(root, range(100, 106), range(106, 108), range(108, 110))
    with pytest.raises(DataNotFoundError, match=r"split\.mat, but none of the 6 that it lists"):
        open_collection(root, ("train", "val"))
    (root / "split.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match=r"split\.mat.*cannot be read"):
        open_collection(root, ("train", "val"))
    (root / "split.mat").unlink()
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(DataNotFoundError, match="found none"):
        open_collection(root, ("val",))
    cityscapes = write_cityscapes(tmp_path / "c", 4)
    with pytest.raises(DataNotFoundError, match=r"train part.*found none"):
        open_collection(cityscapes, ("train", "val"))


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    root = write_gta5(tmp_path / "gta5", 10)
    (root / "images" / "00004.png").write_bytes(b"PNG?")
    with pytest.raises(ValueError, match=r"00004\.png.*cannot be read"):
        open_collection(root, ("train", "val"))
