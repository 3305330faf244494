"""Domain folders, batches of two domains, crops, and the generated domains."""

from __future__ import annotations

import hashlib
import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import loading
from data.augmentations.crops import centre_crop, crop_and_flip
from data.domains import module as domains
from data.domains.folders import KNOWN, find_domains, pair_of, title_of
from data.domains.images import read_images
from data.domains.module import DomainPair, PairSchedule
from data.errors import DataNotFoundError
from data.generated.domains import CLASSES, DOMAINS, draw
from data.images import ImageTensor
from data.prepare.__main__ import main as prepare
from data.prepare.domains import SETS
from tests.fakes import write_domains

TWO = {"art": {"cat": 3, "dog": 2, "owl": 2}, "photo": {"bee": 2, "cat": 4, "dog": 3}}
SAME = {"art": {"cat": 6, "dog": 5}, "photo": {"cat": 4, "dog": 7}}


def pair(root: Path, **options: Any) -> DomainPair:
    sizes: dict[str, Any] = {"resize": 24, "crop": 16, "batch_size": 4}
    return DomainPair(str(root), source="art", target="photo", **(sizes | options))


# --------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("nested", [True, False])
def test_both_layouts_and_the_intersection_of_classes(tmp_path: Path, nested: bool) -> None:
    write_domains(tmp_path, TWO, nested=nested)
    folder = tmp_path / "art" / "images" if nested else tmp_path / "art"
    (folder / "cat" / ".hidden.png").touch()
    (folder / "cat" / "notes.txt").touch()
    (tmp_path / "nothing").mkdir()
    assert list(find_domains(tmp_path)) == ["art", "photo"]
    with pytest.warns(UserWarning, match=r"2 classes in common.*owl in art alone; bee in photo"):
        source, target = pair_of(tmp_path, "art", "photo")
    assert {name: len(paths) for name, paths in source.items()} == {"cat": 3, "dog": 2}
    assert {name: len(paths) for name, paths in target.items()} == {"cat": 4, "dog": 3}
    assert [path.name for path in source["dog"]] == ["frame_0000.png", "frame_0001.png"]


def test_bad_domains_are_refused_in_one_sentence(tmp_path: Path) -> None:
    write_domains(tmp_path, SAME | {"far": {"cat": 1, "car": 1}, "void": {"cat": 1, "dog": 0}})
    for names, message in (
        (("art", "sketch"), r"`target`.*art, far, photo, void, but got 'sketch'"),
        (("sketch", "art"), r"`source`.*but got 'sketch'"),
        (("art", "art"), r"another domain than `source`.*both are 'art'"),
        (("art", "far"), r"at least 2 classes in common, but they have 1: dog in art alone; car"),
        (("art", "void"), r"void has none of dog"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_of(tmp_path, *names)


def test_a_root_without_domains_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"data\.prepare office31.*data\.prepare domains"):
        _ = DomainPair(str(tmp_path), source="amazon", target="webcam", name="office31").files


def test_only_a_complete_published_set_has_its_name(tmp_path: Path) -> None:
    counts = {domain: {"mug": n - 1, "pen": 1} for domain, n in KNOWN["office31"].images.items()}
    write_domains(tmp_path, counts, empty=True)
    two = ("amazon", "webcam")
    assert title_of(tmp_path, "office31", two) == "Office-31"
    assert title_of(tmp_path, "Office-31", two) == "Office-31"
    assert title_of(tmp_path, "my shelf", two) == "my shelf (4110 images)"
    assert title_of(tmp_path, "pacs", two) == "PACS-subset (4110 images)"
    write_domains(tmp_path, {"caltech": {"mug": 3}}, empty=True)
    assert title_of(tmp_path, "office31", two) == "Office-31"
    assert title_of(tmp_path, "office31", ("amazon", "caltech")) == "Office-31-subset (4113 images)"
    (tmp_path / "dslr" / "images" / "pen" / "frame_0000.png").unlink()
    assert title_of(tmp_path, "office31", two) == "Office-31-subset (4112 images)"


# ---------------------------------------------------------------------------------------- images


def test_images_are_decoded_resized_and_hashed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 40, 3), np.uint8)
    made = {
        "exact.png": Image.fromarray(pixels[:24, :24]),
        "large.png": Image.fromarray(pixels),
        "grey.png": Image.fromarray(pixels[:24, :24, 0]),
        "palette.png": Image.fromarray(pixels[:24, :24]).quantize(16),
        "ink.jpg": Image.fromarray(pixels[:24, :24]).convert("CMYK"),
    }
    paths = []
    for name, image in made.items():
        image.save(tmp_path / name)
        paths.append(tmp_path / name)
    images, digest = read_images(paths, 24, threads=3)
    assert torch.equal(images[0], torch.from_numpy(pixels[:24, :24]).permute(2, 0, 1))
    for i, path in enumerate(paths):
        reference = Image.open(path).convert("RGB").resize((24, 24), Image.Resampling.BILINEAR)
        assert np.array_equal(images[i].permute(1, 2, 0).numpy(), np.asarray(reference)), path
    assert read_images(paths, 24)[1] == digest
    (tmp_path / "large.png").write_bytes((tmp_path / "exact.png").read_bytes())
    assert read_images(paths, 24)[1] != digest


def test_unreadable_images_are_named_before_training(tmp_path: Path) -> None:
    write_domains(tmp_path, SAME)
    bad = tmp_path / "photo" / "images" / "dog"
    (bad / "frame_0001.png").write_bytes(b"no image")
    whole = (bad / "frame_0002.png").read_bytes()
    (bad / "frame_0002.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"frame_0001\.png.*frame_0002\.png"):
        pair(tmp_path).setup("fit")


def test_plain_crops_are_windows_of_the_image() -> None:
    images = torch.randint(0, 256, (40, 3, 9, 11), dtype=torch.uint8)
    out = crop_and_flip(images, torch.arange(40), seed=3, size=6)
    found = set()
    for image, crop in zip(images, out, strict=True):
        places = [
            (top, left, flipped)
            for top in range(4)
            for left in range(6)
            for flipped in (False, True)
            for window in [image[:, top : top + 6, left : left + 6]]
            if torch.equal(crop, window.flip(2) if flipped else window)
        ]
        assert len(places) == 1
        found.update(places)
    assert {flipped for *_, flipped in found} == {False, True}
    assert {top for top, *_ in found} == {0, 1, 2, 3} and len({left for _, left, _ in found}) == 6
    # A sample's crop does not depend on the batch that it is in.
    assert torch.equal(out[7:9], crop_and_flip(images[7:9], torch.tensor([7, 8]), seed=3, size=6))
    assert not torch.equal(out, crop_and_flip(images, torch.arange(40), seed=4, size=6))
    # Without flips, the same places, none of them mirrored.
    plain = crop_and_flip(images, torch.arange(40), seed=3, size=6, flip=False)
    same = [torch.equal(a, b) for a, b in zip(out, plain, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(out, plain, strict=True)]
    assert {*same} == {True, False} and all(a or b for a, b in zip(same, mirrored, strict=True))


def test_resized_crops_have_the_areas_and_ratios_asked_for() -> None:
    """On an image whose values are its coordinates, a crop shows its own box."""
    side, n = 80, 300
    ramp = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([ramp[:, None].expand(side, side), ramp[None, :].expand(side, side)])
    out = crop_and_flip(
        image.expand(n, 2, side, side), torch.arange(n), seed=0, size=40, min_area=0.3
    ).float()
    # The distance of the outer samples is (size - 1) / size of the box.
    heights = (out[:, 0, -1].mean(-1) - out[:, 0, 0].mean(-1)).abs() * 40 / 39
    widths = (out[:, 1, :, -1].mean(-1) - out[:, 1, :, 0].mean(-1)).abs() * 40 / 39
    areas, ratios = heights * widths / side**2, widths / heights
    assert 0.27 < areas.min() < 0.33 and areas.max() > 0.9
    assert abs(areas.mean() - 0.65) < 0.04
    assert ratios.min() > 0.72 and ratios.max() < 1.39
    # Every row of a crop is a straight line from one side of its box to the other.
    line = torch.linspace(0, 1, 40)
    rows = out[:, 1, 0]
    straight = rows[:, :1] + (rows[:, -1:] - rows[:, :1]) * line
    assert (rows - straight).abs().max() <= 1.01


def test_centre_crop_takes_the_middle() -> None:
    images = torch.arange(36).view(1, 1, 6, 6)
    assert centre_crop(images, 2).flatten().tolist() == [14, 15, 20, 21]


# --------------------------------------------------------------------------------------- batches


def schedule(n: int = 11, others: int = 10, batch_size: int = 4) -> PairSchedule:
    source = ImageTensor(torch.arange(n).view(n, 1, 1, 1), torch.arange(n) % 2)
    return PairSchedule(source, torch.arange(others).view(others, 1, 1, 1), batch_size, seed=5)


def test_an_epoch_is_one_pass_over_the_source_and_target_passes_have_no_repeats() -> None:
    batches = [schedule()[number] for number in range(9)]
    assert [b["epoch"] for b in batches] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    orders = []
    for epoch in range(3):
        own = [b["index"].tolist() for b in batches[3 * epoch : 3 * epoch + 3]]
        assert sorted(i for part in own for i in part) == list(range(11))
        assert [len(part) for part in own] == [4, 4, 3]
        orders.append(own)
    assert orders[0] != orders[1] != orders[2]
    for number in range(0, 8, 2):  # a pass over 10 images is 2 batches
        once = [i for b in batches[number : number + 2] for i in b["target_index"].tolist()]
        assert len(set(once)) == len(once)
    for batch in batches:
        assert len(batch["target"]) == len(batch["image"])
        assert batch["target"].flatten().tolist() == batch["target_index"].tolist()
    assert {i for b in batches for i in b["target_index"].tolist()} == set(range(10))


def test_processes_share_out_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(2):
        monkeypatch.setattr(loading, "process_rank", lambda rank=rank: (rank, 2))
        shares.append([schedule(n=12)[number] for number in range(6)])
    monkeypatch.undo()
    whole = [schedule(n=12)[number] for number in range(6)]
    for key in ("index", "target_index"):
        for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
            assert torch.equal(torch.cat([part[key] for part in parts]), batch[key])
    monkeypatch.setattr(loading, "process_rank", lambda: (0, 3))
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        schedule()


def test_a_domain_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target domain.*one batch of 4 images, but it has 3"):
        schedule(others=3)
    with pytest.raises(ValueError, match=r"source domain.*but it has 2"):
        schedule(n=2)


def test_no_target_label_is_in_a_training_batch(tmp_path: Path) -> None:
    write_domains(tmp_path, SAME)
    data = pair(tmp_path, crop=24)
    data.setup("fit")
    loader = data.train_dataloader()
    levels = {i: int(image[0, 0, 0]) for i, image in enumerate(data.images[1])}
    for batch in loader:
        assert batch.keys() == {
            "image", "label", "index", "target", "target_index", "number", "epoch",
                "share",
        }  # fmt: skip
        assert batch["label"].tolist() == [int(i >= 6) for i in batch["index"]]
        assert batch["target"][:, 0, 0, 0].tolist() == [
            levels[int(i)] for i in batch["target_index"]
        ]
    test = next(iter(data.test_dataloader()))
    assert test["label"].tolist() == [0] * 4 + [1] * 7


def test_training_andtest_views(tmp_path: Path) -> None:
    write_domains(tmp_path, SAME)
    data = pair(tmp_path)
    data.setup("fit")
    raw = next(iter(data.train_dataloader()))
    before = raw["image"][:, :, :16, :16].clone()
    batch = data.on_after_batch_transfer(raw, 0)
    assert batch["image"].shape == batch["target"].shape == (4, 3, 16, 16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (domains.MEAN, domains.STD))
    # Images of one level look the same wherever they are cut.
    torch.testing.assert_close(batch["image"], (before.float() / 255 - mean) / std)
    statistics = list(data.target_batches("cpu"))
    test = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)["image"]
    one, two = (torch.sort(x[:, 0, 0, 0])[0] for x in (torch.cat(statistics), test))
    assert torch.equal(one, two)


def test_describe_depends_on_contents_labels_and_direction(tmp_path: Path) -> None:
    write_domains(tmp_path, SAME)

    def print_of(data: DomainPair) -> str:
        data.setup("test")
        return str(data.describe()["fingerprint"])

    data = pair(tmp_path)
    first = print_of(data)
    assert data.describe() | {"fingerprint": ""} == {
        "dataset": f"{tmp_path.name} (22 images)",
        "fingerprint": "",
        "n_train": 11,
        "n_test": 11,
        "unit": "images",
        "source": "art",
        "target": "photo",
        "classes": ["cat", "dog"],
    }
    other = DomainPair(str(tmp_path), source="photo", target="art", resize=24, crop=16)
    folder = tmp_path / "art" / "images"
    assert print_of(other) != first == print_of(pair(tmp_path))
    (folder / "cat" / "frame_0005.png").rename(folder / "dog" / "frame_.png")
    assert print_of(pair(tmp_path)) != first


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 1, "`batch_size` to be at least 2"),
        ("resize", 15, "`resize` to be at least 16"),
        ("min_area", 0.0, r"`min_area` to be in \(0, 1\]"),
        ("workers", 0, "`workers` to be at least 1"),
    ],
)
def test_options_out_of_range(tmp_path: Path, option: str, value: Any, message: str) -> None:
    write_domains(tmp_path, SAME)
    with pytest.raises(ValueError, match=message):
        pair(tmp_path, **{option: value})


# ---------------------------------------------------------------------------- prepared domains


def test_generated_domains_are_a_function_of_the_seed_and_differ_as_said() -> None:
    def some(domain: str, seed: int = 0) -> np.ndarray:
        return np.stack([draw(domain, c, i, size=32, seed=seed) for c in CLASSES for i in (0, 1)])

    plain, cluttered, dim = (some(domain).astype(float) for domain in DOMAINS)
    assert np.array_equal(plain, some("plain")) and not np.array_equal(plain, some("plain", 1))

    def edges(images: np.ndarray) -> float:
        grey = images.mean(-1)
        return float(np.abs(np.diff(grey, axis=1)).mean() / grey.mean())

    assert dim.mean() < 0.8 * plain.mean()
    assert edges(cluttered) > 1.4 * edges(plain)
    # A warm cast: on the average more red than blue, which the plain domain has alike.
    red, _, blue = (dim / plain.mean((0, 1, 2))).mean((0, 1, 2))
    assert red > 1.4 * blue


def test_domains_are_made_once_and_overwrite_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    command = ["domains", "--root", str(root), "--images", "2", "--size", "24"]
    assert prepare(command) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"new", ".new.lock"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = DomainPair(str(root), source="plain", target="dim", resize=24, crop=24, batch_size=4)
    data.setup("fit")
    assert data.classes == CLASSES and data.num_classes == 6
    assert data.describe()["dataset"] == "generated domains (36 images)"
    assert torch.equal(
        data.images[1][-1].permute(1, 2, 0),
        torch.from_numpy(draw("dim", "triangle", 1, size=24, seed=0)),
    )
    assert prepare(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert prepare([*command, "--seed", "1"]) == 1
    assert "new or empty folder" in capsys.readouterr().err
    assert prepare(["domains", "--root", str(tmp_path / "x"), "--size", "8"]) == 1
    assert "`--size` to be at least 16" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["", "domain_adaptation_images/"])
def test_office31_is_checked_and_unpacked_from_the_hand_fetched_archive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    command = ["office31", "--root", str(tmp_path)]
    assert prepare(command) == 1
    said = capsys.readouterr().err
    assert "drive.google.com" in said and "domain_adaptation_images.tar.gz" in said
    archive = tmp_path / "domain_adaptation_images.tar.gz"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for domain in KNOWN["office31"].images:
            for name in ("mug", "pen"):
                image = io.BytesIO()
                Image.new("RGB", (8, 8)).save(image, "JPEG")
                info = tarfile.TarInfo(f"{top}{domain}/images/{name}/frame_0001.jpg")
                info.size = len(image.getvalue())
                tar.addfile(info, io.BytesIO(image.getvalue()))
    archive.write_bytes(content.getvalue())
    assert prepare(command) == 1  # of another checksum than the published archive
    assert "is not the publi" in capsys.readouterr().err and not (tmp_path / "office31").exists()
    (file,) = SETS["office31"].files  # type: ignore[union-attr]
    monkeypatch.setitem(file.__dict__, "md5", hashlib.md5(content.getvalue()).hexdigest())
    for domain in list(KNOWN["office31"].images):
        monkeypatch.setitem(KNOWN["office31"].images, domain, 2)  # type: ignore[arg-type]
    assert prepare(command) == 0
    data = DomainPair(str(tmp_path), source="amazon", target="dslr", name="office31")
    assert data.classes == ("mug", "pen")
    assert prepare(command) == 0
    assert "nothing to do" in capsys.readouterr().out
