from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.errors import DataNotFoundError
from data.imagenet import layout as imagenet_layout
from data.imagenet.batches import random_box
from data.imagenet.folders import FolderImages
from data.imagenet.module import ImageNet
from data.images import Group
from tests.fakes import CLASS_NAMES, TWO_CORRUPTIONS, write_imagenet, write_imagenet_c

SIZE = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("data")
    write_imagenet(base / "imagenet", size=SIZE)
    write_imagenet_c(base / "ImageNet-C", size=SIZE)
    return base


@pytest.fixture
def own(folders: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folders, tmp_path / "own"))


def module(base: Path, **options: Any) -> ImageNet:
    given = {"batch_size": 6, "eval_batch_size": 5, "workers": 0, "image_size": SIZE}
    given |= {"corruptions": TWO_CORRUPTIONS, **options}
    return ImageNet(str(base / "imagenet"), **given)


def training(base: Path, **options: Any) -> list[dict[str, Any]]:
    data = module(base, **options)
    data.setup("fit")
    loader = data.train_dataloader()
    return [batch for _ in range(2) for batch in loader]


def test_labels_are_those_of_image_folder(folders: Path) -> None:
    seen = {}
    for batch in training(folders):
        seen |= dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True))
    assert [seen[i] for i in range(24)] == ImageFolder(folders / "imagenet" / "train").targets


def test_evaluation_is_torchvisions_standard_transform(folders: Path) -> None:
    data = module(folders)
    data.setup("test")
    batches = list(data.test_dataloader())
    group = torch.cat([batch["group"] for batch in batches])
    images = torch.cat([batch["image"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    assert data.groups[:2] == [Group("clean", 0), Group("gaussian_noise", 1)]
    assert len(data.groups) == 11 and group.bincount().tolist() == [12] * 11
    middle = transforms.Compose([transforms.Resize(27), transforms.CenterCrop(SIZE)])
    paths = ["imagenet/val", "ImageNet-C/gaussian_noise/1"]
    for number, path in enumerate([*paths, *["ImageNet-C/fog/5"]]):
        reference = ImageFolder(folders / path, transform=None if number else middle)
        own = images[group == (10 if number == 2 else number)]
        assert labels[group == (10 if number == 2 else number)].tolist() == reference.targets
        for image, (picture, _) in zip(own, reference, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_a_crop_is_a_function_of_seed_epoch_and_index(folders: Path) -> None:
    first = training(folders)
    again = training(folders, batch_size=4, workers=2)
    other = training(folders, seed=1)

    def crops(batches: list[dict[str, Any]]) -> dict[tuple[int, int], torch.Tensor]:
        return {
            (batch["epoch"], index): image
            for batch in batches
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True)
        }

    one, two, three = crops(first), crops(again), crops(other)
    assert one.keys() == two.keys() and len(one) == 48
    assert all(image.equal(two[key]) for key, image in one.items())
    changed = [
        not one[0, i].equal(one[1, i]) and not one[0, i].equal(three[0, i]) for i in range(24)
    ]
    assert sum(changed) >= 23


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_exactly(folders: Path, workers: int) -> None:
    expected = training(folders)
    data = module(folders, workers=workers)
    data.setup("fit")
    data.load_state_dict({"batches_seen": 2})
    loader = data.train_dataloader()
    rest = [batch for _ in range(2) for batch in loader][: len(expected) - 2]
    assert data.state_dict() == {"batches_seen": 10}
    for batch, wanted in zip(rest, expected[2:], strict=True):
        assert batch["number"] == wanted["number"]
        assert batch["image"].equal(wanted["image"]) and batch["label"].equal(wanted["label"])


def test_a_crop_is_the_box_that_torchvision_would_resize(folders: Path) -> None:
    data = module(folders, flip=False)
    data.setup("fit")
    dataset = data.training_set()
    from data.imagenet.batches import DRAWS
    from data.randomness import derive_seed, sample_uniform

    batch = dataset.draw([5, 17], 3)
    seed = derive_seed(derive_seed(0, "augmentation"), "crop", 3)
    for image, index in zip(batch["image"], (5, 17), strict=True):
        uniform = sample_uniform(seed, torch.tensor([index]), DRAWS)[0].tolist()
        picture = Image.open(dataset.images.path(index)).convert("RGB")
        box = random_box(uniform, picture.height, picture.width)
        reference = transforms.functional.resized_crop(picture, *box, [SIZE, SIZE])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(reference))


def test_half_of_the_crops_are_mirrored(folders: Path) -> None:
    plain, mirrored = training(folders, flip=False), training(folders)
    flips = 0
    for one, two in zip(plain, mirrored, strict=True):
        for a, b in zip(one["image"], two["image"], strict=True):
            assert b.equal(a) or b.equal(a.flip(2))
            flips += b.equal(a.flip(2))
    assert 12 <= flips <= 36


def test_boxes_are_distributed_as_torchvisions() -> None:
    rng = np.random.default_rng(0)
    height, width, n = 300, 400, 3000
    own = np.array([random_box(rng.random(23).tolist(), height, width) for _ in range(n)])
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
            for _ in range(n)
        ]
    )
    for statistic in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] + b[:, 2] / 2,
        lambda b: b[:, 1] + b[:, 3] / 2,
    ):
        quantiles = [
            np.quantile(statistic(boxes), np.linspace(0.05, 0.95, 19)) for boxes in (own, theirs)
        ]
        scale = quantiles[1][-1] - quantiles[1][0]
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.05 * scale
    assert (own[:, 0] + own[:, 2] <= height).all() and (own[:, 1] + own[:, 3] <= width).all()


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1)])
def test_boxes_of_extreme_images_are_torchvisions_middle(height: int, width: int) -> None:
    own = random_box([0.9] * 23, height, width)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    # No random box fits into them, but for the single pixel.
    assert own == transforms.RandomResizedCrop.get_params(image, (0.9, 1.0), (3 / 4, 4 / 3))


def test_conditions_are_read_alone_and_shuffled_alike(folders: Path) -> None:
    data = module(folders)
    data.setup("test")
    plain = torch.cat([batch["index"] for batch in data.condition_loader(3)])
    assert plain.tolist() == list(range(12))
    batches = list(data.condition_loader(3, shuffled=True))
    assert {int(g) for batch in batches for g in batch["group"]} == {3}
    order = torch.cat([batch["index"] for batch in batches])
    assert sorted(order.tolist()) == list(range(12)) != order.tolist()
    again = [batch["index"] for batch in data.condition_loader(3, shuffled=True)]
    assert order.equal(torch.cat(again))
    data.eval_batch_size = 11
    assert [len(b["label"]) for b in data.condition_loader(3, shuffled=True)] == [12]


def test_archives_may_lie_each_in_its_folder(own: Path) -> None:
    base = own / "ImageNet-C"
    for family, name in (("noise", "gaussian_noise"), ("weather", "fog")):
        (base / family).mkdir()
        (base / name).rename(base / family / name)
    data = module(own)
    data.setup("test")
    assert len(data.groups) == 11


# ------------------------------------------------------------------------------------- the name


def test_a_subset_carries_its_counts(folders: Path) -> None:
    data = module(folders)
    data.setup("test")
    described = data.describe()
    assert described["dataset"] == "imagenet-subset (3 classes, 24+12 images)"
    assert described["n_train"] == 24 and described["n_test"] == 12
    assert data.reference_errors() is None
    data = module(folders)
    data.setup("fit")
    assert data.describe()["fingerprint"] == described["fingerprint"]


def test_a_set_of_another_name_keeps_it_and_its_counts(folders: Path) -> None:
    data = module(folders, title="Shapes", corruptions=[])
    data.setup("test")
    assert data.describe()["dataset"] == "Shapes (3 classes, 24+12 images)"


def test_the_fingerprint_follows_names_and_sizes(own: Path) -> None:
    def described() -> dict[str, Any]:
        data = module(own)
        data.setup("test")
        return data.describe()

    before = described()
    image = next((own / "imagenet" / "train" / CLASS_NAMES[0]).iterdir())
    image.rename(image.with_name(f"{CLASS_NAMES[0]}_999.JPEG"))
    renamed = described()
    assert renamed["fingerprint"] != before["fingerprint"]
    assert renamed["corrupted_fingerprint"] == before["corrupted_fingerprint"]
    with next((own / "ImageNet-C" / "fog" / "2" / CLASS_NAMES[1]).iterdir()).open("ab") as file:
        file.write(b"\0")
    longer = described()
    assert longer["fingerprint"] == renamed["fingerprint"]
    assert longer["corrupted_fingerprint"] != renamed["corrupted_fingerprint"]


def test_only_the_whole_published_set_is_called_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_layout, "CLASSES", 2)
    monkeypatch.setattr(imagenet_layout, "TRAINING", 6)
    monkeypatch.setattr(imagenet_layout, "VALIDATION", 4)

    def images(classes: tuple[str, ...], names: list[str], per_class: int) -> FolderImages:
        labels = np.repeat(np.arange(len(classes)), per_class)
        return FolderImages(Path("x"), classes, labels, np.array([n.encode() for n in names]))

    classes = ("n01440764", "n01443537")
    train = images(classes, [f"{c}_{i}.JPEG" for c in classes for i in range(3)], 3)
    val = images(classes, [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (2, 4, 1, 3)], 2)
    renamed = images(classes, [f"ILSVRC2012_val_{i:08d}.JPEG" for i in (2, 4, 1, 5)], 2)
    other = images(("cat", "dog"), ["a.png", "b.png", "a.png", "b.png"], 2)
    title = imagenet_layout.title_of
    assert title(train, val, [], False) == title(train, val, [val, val], False) == "ImageNet"
    assert title(train, renamed, [], False) == "imagenet-subset (2 classes, 6+4 images)"
    assert title(train, val, [val, renamed], True).endswith("6+4 images, corruptions made here)")
    assert "3 a condition" in title(train, val, [val, renamed.without([1])], False)
    assert title(other, other, [], False) == "image-folder (2 classes, 4+4 images)"


# ------------------------------------------------------------------------------------ bad input


def refused(base: Path, stage: str = "test", **options: Any) -> str:
    with pytest.raises((ValueError, DataNotFoundError)) as stop:
        data = module(base, **options)
        assert data.num_classes
        data.setup(stage)
        for loader in (data.train_dataloader(), data.test_dataloader()):
            for _ in loader:
                pass
    return str(stop.value)


def test_missing_folders_say_how_to_get_them(tmp_path: Path, own: Path) -> None:
    message = refused(tmp_path)
    assert "imagenet/train" in message and "image-net.org" in message
    assert "python -m data.prepare imagenet --root" in message and "digits.yaml" in message
    shutil.rmtree(own / "ImageNet-C")
    message = refused(own)
    assert "python -m data.prepare imagenetc" in message and "--data.corrupted" in message
    shutil.rmtree(own / "imagenet" / "val")
    assert "imagenet/val" in refused(own)


def test_unsorted_validation_images(own: Path) -> None:
    val = own / "imagenet" / "val"
    for image in list(val.glob("*/*")):
        image.rename(val / image.name)
    for name in CLASS_NAMES:
        (val / name).rmdir()
    assert "12 files and no folder" in refused(own)


def test_missing_conditions_are_named(own: Path) -> None:
    shutil.rmtree(own / "ImageNet-C" / "fog" / "4")
    message = refused(own, corruptions=("gaussian_noise", "fog", "snow"))
    assert "15 conditions" in message and "6 are missing: fog 4, snow." in message
    assert "--data.corruptions [gaussian_noise]" in message
    data = module(own, severities=[1, 5])
    data.setup("test")
    assert len(data.groups) == 5


def test_conditions_of_different_images(own: Path) -> None:
    next((own / "ImageNet-C" / "fog" / "3" / CLASS_NAMES[0]).iterdir()).unlink()
    message = refused(own)
    assert "fog/3 (11)" in message and "(12)" in message


@pytest.mark.parametrize("where", ["imagenet/val", "ImageNet-C/fog/2"])
def test_other_classes(own: Path, where: str) -> None:
    (own / where / CLASS_NAMES[1]).rename(own / where / "n99999999")
    message = refused(own)
    assert f"without {CLASS_NAMES[1]} with n99999999 besides" in message and where in message


def test_class_without_images(own: Path) -> None:
    for image in (own / "imagenet" / "train" / CLASS_NAMES[2]).iterdir():
        image.unlink()
    message = refused(own)
    assert CLASS_NAMES[2] in message and "1 of 3" not in message


def test_files_that_are_no_images_or_of_another_class(own: Path) -> None:
    train = own / "imagenet" / "train"
    (train / CLASS_NAMES[0] / "notes.txt").write_text("x")
    (train / CLASS_NAMES[0] / ".hidden").write_text("x")
    (train / "readme.md").write_text("x")
    stray = next((train / CLASS_NAMES[1]).iterdir())
    stray.rename(train / CLASS_NAMES[0] / stray.name)
    message = refused(own)
    assert "3 of 26 files" in message and "--data.skip_bad true" in message
    assert f"{CLASS_NAMES[0]}/notes.txt (no image by its name)" in message
    assert f"{stray.name} (of another class by its name)" in message
    with pytest.warns(UserWarning, match="3 of 26 files in .* are left out: .*notes.txt"):
        data = module(own, skip_bad=True)
        data.setup("fit")
    assert data.describe()["n_train"] == 23


def test_corrupted_images_in_another_class_than_the_clean_ones(own: Path) -> None:
    folder = own / "ImageNet-C" / "fog" / "1"
    stray = next((folder / CLASS_NAMES[1]).iterdir())
    stray.rename(folder / CLASS_NAMES[0] / stray.name)
    message = refused(own)
    assert f"1 of 12 files are not: {CLASS_NAMES[0]}/{stray.name}" in message
    assert f"of {CLASS_NAMES[1]} in val" in message
    with pytest.warns(UserWarning, match="left out"):
        data = module(own, skip_bad=True)
        data.setup("test")
    assert [len(list(data._groups.span(g))) for g in (5, 6, 7)] == [12, 11, 12]
    assert "11 a condition" in data.describe()["dataset"]


def test_unreadable_images_are_named_when_met_or_before(own: Path) -> None:
    train = own / "imagenet" / "train" / CLASS_NAMES[0]
    first, second = sorted(train.iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(b"no image")
    message = refused(own)
    assert "could not be read" in message and "--data.verify true" in message
    message = refused(own, verify=True)
    assert "2 of 24 files are not" in message
    assert f"{first.name} (unreadable: image file is truncated" in message
    assert f"{second.name} (unreadable: cannot identify image file)" in message
    with pytest.warns(UserWarning, match="2 of 24 files .* are left out"):
        data = module(own, skip_bad=True)
        data.setup("fit")
    assert data.describe()["n_train"] == 22
    assert sum(len(batch["label"]) for batch in data.train_dataloader()) == 22


def test_corrupted_images_of_another_size(own: Path) -> None:
    image = next((own / "ImageNet-C" / "fog" / "1" / CLASS_NAMES[0]).iterdir())
    Image.new("RGB", (32, 30)).save(image)
    message = refused(own)
    assert "24x24" in message and "32x30" in message and image.name in message
    assert "--data.image_size" in refused(own, image_size=32)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"image_size": 4}, ["image_size", "at least 8"]),
        ({"image_size": 64, "resize": 32}, ["resize", "64", "32"]),
        ({"severities": [0, 6]}, ["severities", "[0, 6]"]),
        ({"severities": []}, ["severities"]),
        ({"corruptions": ["smog"]}, ["smog", "fog"]),
        ({"workers": -1}, ["workers"]),
    ],
)
def test_bad_options(folders: Path, options: dict[str, Any], parts: list[str]) -> None:
    message = refused(folders, **options)
    assert all(part in message for part in parts), message
