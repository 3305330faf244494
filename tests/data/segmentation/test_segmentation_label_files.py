"""What a label file means whatever its palette, and what a part of them must hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.segmentation.label_files import check_part, read_label
from data.segmentation.labels import COLOURS, LabelError, LabelKind
from tests.data.segmentation.test_segmentation_labels import TRAIN_ID_OF
from tests.segmentation_fakes import palette_image

# Of label ids, by hand from the published list.
COLOUR_OF = {7: (128, 64, 128), 8: (244, 35, 232), 11: (70, 70, 70), 21: (107, 142, 35),
             23: (70, 130, 180), 26: (0, 0, 142), 0: (0, 0, 0)}  # fmt: skip
IDS = sorted(COLOUR_OF)


def scene(seed: int, values: list[int] = IDS) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, (9, 14)).astype(np.uint8)


def expected(ids: np.ndarray) -> np.ndarray:
    return np.vectorize(TRAIN_ID_OF.get)(ids).astype(np.uint8)


def shrunk(image: Image.Image, seed: int) -> Image.Image:
    """The same colours by a palette of those in use alone, in any order, as optimisers write."""
    pixels = np.asarray(image.convert("RGB"))
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    colours = np.random.default_rng(seed).permutation(colours)
    numbers = (pixels[:, :, None] == colours).all(-1).argmax(-1).astype(np.uint8)
    made = Image.fromarray(numbers)
    made.putpalette(colours.tobytes())
    assert (np.asarray(made.convert("RGB")) == pixels).all()
    return made


def voc_palette() -> np.ndarray:
    """PASCAL VOC's colour map, from its definition: bits of the number, dealt out to channels."""
    palette = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            palette[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return palette


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["palette", "grey", "colours"])
def test_a_renumbered_palette_means_its_colours(tmp_path: Path, kind: str, seed: int) -> None:
    ids = scene(seed)
    rgb = np.array([COLOUR_OF.get(i, (0, 0, 0)) for i in range(27)], np.uint8)[ids]
    image = {
        "palette": palette_image(ids),
        "grey": Image.fromarray(ids),
        "colours": Image.fromarray(rgb),
    }[kind]
    for name, one in (("before", image), ("after", shrunk(image, seed))):
        path = tmp_path / f"{name}.png"
        one.save(path)
        assert (read_label(path, "ids") == expected(ids)).all(), name
    assert (np.asarray(Image.open(path)) != ids).any()  # The numbers alone would be wrong.


@pytest.mark.parametrize("seed", range(3))
def test_a_renumbered_palette_of_training_ids(tmp_path: Path, seed: int) -> None:
    ids = scene(seed, [0, 1, 8, 10, 13, 255])
    path = tmp_path / "label.png"
    coloured = Image.fromarray(ids)
    coloured.putpalette(np.array(COLOURS, np.uint8).tobytes())
    for image in (Image.fromarray(ids), coloured):
        for one in (image, shrunk(image, seed)):
            one.save(path)
            assert (read_label(path, "train_ids") == ids).all()
    # Road and unlabelled ones alone fit into a bit.
    Image.fromarray(ids == 255).save(path)
    assert Image.open(path).mode == "1"
    assert (read_label(path, "train_ids") == np.where(ids == 255, 255, 0)).all()


def test_gta5s_own_files_are_read_by_number(tmp_path: Path) -> None:
    """Groups of poles and licence plates have other classes' colours, `static` one of its own."""
    ids = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = palette_image(ids)
    palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette[4], palette[34] = (20, 20, 20), (0, 0, 142)
    palette[35:] = np.random.default_rng(0).integers(0, 256, (221, 3))  # in no pixel
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "label.png")
    by_hand = [TRAIN_ID_OF.get(i, 255) for i in range(35)]
    assert read_label(tmp_path / "label.png", "ids").ravel().tolist() == by_hand


@pytest.mark.parametrize("palette", ["black", "voc", "red"])
def test_palettes_without_meaning_leave_the_numbers(tmp_path: Path, palette: str) -> None:
    ids = scene(0)
    colours = {
        "black": np.zeros((256, 3), np.uint8),
        "voc": voc_palette(),  # where 21, vegetation, has the road's colour
        "red": np.random.default_rng(1).integers(1, 60, (256, 3)).astype(np.uint8),
    }[palette]
    if palette == "red":
        colours[11] = (255, 0, 0)  # a rider's
    image = Image.fromarray(ids)
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "label.png")
    assert (read_label(tmp_path / "label.png", "ids") == expected(ids)).all()


def unclear(name: str) -> tuple[Image.Image, LabelKind]:
    if name == "grey":  # traffic sign, or GTA5's colour of `static`
        image = Image.fromarray(scene(0, [0, 1]))
        image.putpalette(bytes([20, 20, 20, 0, 0, 0]))
        return image, "ids"
    if name == "stale":  # training ids that kept the palette of label ids
        return palette_image(scene(0, [0, 1, 2, 8, 10, 13])), "train_ids"
    if name == "another":  # of a colour map of something else, one colour alone is in use
        image = Image.fromarray(scene(0, [0, 21]))
        image.putpalette(voc_palette().tobytes())
        return image, "ids"
    image = shrunk(palette_image(scene(0)), 0)  # most colours are classes', and one is none
    palette = image.getpalette()
    assert palette is not None
    place = [i for i in range(7) if palette[3 * i : 3 * i + 3] == [0, 0, 142]]
    palette[3 * place[0]] = 9
    image.putpalette(palette)
    return image, "ids"


@pytest.mark.parametrize("name", ["grey", "stale", "another", "stranger"])
def test_palettes_that_could_mean_two_things_are_refused(tmp_path: Path, name: str) -> None:
    image, kind = unclear(name)
    image.save(tmp_path / "label.png")
    says = r"rgb\(9, 0, 142\)" if name == "stranger" else "label.png.*one channel.*without a pal"
    with pytest.raises(LabelError, match=says):
        read_label(tmp_path / "label.png", kind)


@pytest.mark.parametrize("content", ["JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_other_contents_under_a_pngs_name_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "label.png"
    Image.fromarray(scene(0)).save(path, content)
    with pytest.raises(LabelError, match=rf"label\.png to be a PNG.*content is {content}"):
        read_label(path, "ids")


# ------------------------------------------------------------------------------------ a whole part


def part(folder: Path, *images: np.ndarray) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, values in zip(paths, images, strict=True):
        Image.fromarray(values.astype(np.uint8)).save(path)
    return paths


def check(paths: list[Path], kind: LabelKind = "ids") -> None:
    check_part([(path, kind) for path in paths], "the val part")


def test_training_ids_that_are_named_label_ids_show_in_the_part(tmp_path: Path) -> None:
    trained = [scene(1, [0, 1, 2]), scene(2, [0, 8, 10, 13, 255])]
    with pytest.raises(LabelError, match=r"val part.*2 label.*0, 1, 2, 8, 10, 13, 255.*TrainIds"):
        check(part(tmp_path, *trained))
    check(part(tmp_path, *trained), "train_ids")
    # One image more with a person, as a part of label ids has, and none of them is in doubt.
    check(part(tmp_path, *trained[:1], scene(3, [7, 24])))
    # Roads alone, or a few classes, are label ids of a set that has no others.
    check(part(tmp_path, scene(1, [0, 7]), scene(2, [0, 7, 8, 11, 12, 13, 17])))
    coloured = np.array([COLOURS[0], COLOURS[1]], np.uint8)[scene(4, [0, 1])]
    Image.fromarray(coloured).save(tmp_path / "0.png")
    check([tmp_path / "0.png"])


def test_a_part_without_one_labelled_pixel(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="labelled pixels in the val part, but all 2 label images"):
        check(part(tmp_path, scene(1, [0, 1, 2, 3]), scene(2, [0, 3])))
    with pytest.raises(LabelError, match="all 1 label images have ignored ones alone"):
        check(part(tmp_path, scene(1, [255])), "train_ids")
    last = scene(1, [0, 1, 2, 3])
    last[0, 0] = 23
    check(part(tmp_path, scene(1, [0, 1, 2, 3]), last))


def test_no_more_is_read_than_it_takes(tmp_path: Path) -> None:
    paths = part(tmp_path, scene(1), scene(2))
    paths[1].write_bytes(b"never opened")
    check(paths)
