from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.segmentation.label_files import read_label
from data.segmentation.labels import (
    CLASSES,
    COLOURS,
    LABELS,
    LabelError,
    colour_image,
    label_ids,
    train_ids,
)
from tests.segmentation_fakes import palette_image

# By hand from the published list of label ids (-1 to 33), independent of the table under test.
TRAIN_ID_OF = {
    -1: 255, 0: 255, 1: 255, 2: 255, 3: 255, 4: 255, 5: 255, 6: 255, 7: 0, 8: 1, 9: 255, 10: 255,
    11: 2, 12: 3, 13: 4, 14: 255, 15: 255, 16: 255, 17: 5, 18: 255, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 29: 255, 30: 255, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@pytest.mark.parametrize("label_id", sorted(TRAIN_ID_OF))
def test_every_label_id_has_its_training_id(label_id: int) -> None:
    (entry,) = (label for label in LABELS if label.id == label_id)
    assert entry.train_id == TRAIN_ID_OF[label_id]
    stored = np.array([[label_id % 256]], np.uint8)  # -1 as a byte is 255
    assert train_ids(stored, "ids").item() == TRAIN_ID_OF[label_id]


def test_the_table_is_complete() -> None:
    assert len(LABELS) == 35 and len(CLASSES) == 19
    assert CLASSES[0] == "road" and CLASSES[13] == "car" and CLASSES[18] == "bicycle"
    # GTA5's own index of licence plates is not in Cityscapes' list.
    assert train_ids(np.array([[34]], np.uint8), "ids").item() == 255


def test_colours_give_the_evaluated_class() -> None:
    pixels = np.array([[label.colour for label in LABELS]], np.uint8)
    expected = [TRAIN_ID_OF[label.id] for label in LABELS]
    # These two have the colour of a class that is evaluated.
    expected[[label.name for label in LABELS].index("polegroup")] = CLASSES.index("pole")
    expected[[label.name for label in LABELS].index("license plate")] = CLASSES.index("car")
    assert train_ids(pixels, "colours").tolist() == [expected]
    everything = np.arange(19, dtype=np.uint8)
    assert (train_ids(colour_image(everything)[None], "colours") == everything).all()
    assert (train_ids(label_ids(everything)[None], "ids") == everything).all()
    assert colour_image(np.array([255], np.uint8)).tolist() == [[0, 0, 0]]
    assert COLOURS[0] == (128, 64, 128)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA", "I;16", "train"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, mode: str) -> None:
    ids = np.array([[7, 8, 11, 0], [33, 26, 23, 34]], np.uint8)
    expected = np.array([[0, 1, 2, 255], [18, 13, 10, 255]], np.uint8)
    path = tmp_path / "label.png"
    if mode == "P":
        palette_image(ids).save(path)
    elif mode == "L":
        Image.fromarray(ids).save(path)
    elif mode == "I;16":
        Image.fromarray(ids.astype(np.uint16)).save(path)
    elif mode == "train":
        Image.fromarray(expected).save(path)
    else:
        Image.fromarray(colour_image(expected)).convert(mode).save(path)
    found = read_label(path, "train_ids" if mode == "train" else "ids")
    assert found.dtype == np.uint8 and (found == expected).all()


def test_unknown_values_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    ids = np.full((4, 5), 7, np.uint8)
    ids[0, :3], ids[1, 0] = 77, 120
    Image.fromarray(ids).save(path)
    with pytest.raises(LabelError, match=r"label\.png.*: 77 \(3 pixels\), 120 \(1 pixel\)"):
        read_label(path, "ids")
    with pytest.raises(LabelError, match=r"training ids \(0 to 18.*2 unknown: 77 \(3 pixels\)"):
        read_label(path, "train_ids")
    Image.fromarray(np.full((2, 2, 3), (1, 2, 3), np.uint8)).save(path)
    with pytest.raises(LabelError, match=r"rgb\(1, 2, 3\) \(4 pixels\)"):
        read_label(path, "ids")
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(path)
    with pytest.raises(LabelError, match=r"300 \(4 pixels\)"):
        read_label(path, "ids")


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    noise = np.random.default_rng(0).integers(0, 34, (40, 40)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(LabelError, match=r"label\.png.*cannot be read"):
        read_label(path, "ids")
    Image.new("LA", (2, 2)).save(path)
    with pytest.raises(LabelError, match="mode LA"):
        read_label(path, "ids")
