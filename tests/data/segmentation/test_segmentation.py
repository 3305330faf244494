from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data import loading
from data.errors import DataNotFoundError
from data.segmentation import module
from data.segmentation.module import SourceAndTarget
from data.segmentation.sets import read_image, size_batches
from tests.segmentation_fakes import street, write_cityscapes, write_gta5


def opened(root: Path, stage: str = "fit", **options: Any) -> SourceAndTarget:
    """A data module on small sets below `root`."""
    source, target = root / "source", root / "target"
    if not source.exists():
        write_gta5(source, 12)
        write_cityscapes(target, 5)
    options = {"batch_size": 4, "crop_size": 16, "workers": 0, **options}
    data = SourceAndTarget(str(root), "source", "target", **options)
    data.setup(stage)
    return data


def batches(data: SourceAndTarget) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    return [*loader, *loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_a_function_of_seed_epoch_and_image(tmp_path: Path, workers: int) -> None:
    first = batches(opened(tmp_path))
    again = batches(opened(tmp_path, workers=workers))
    other = batches(opened(tmp_path, seed=1))
    assert len(first) == 4 and first[0]["image"].shape == (4, 3, 16, 16)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "index"))
    assert not torch.equal(first[0]["image"], other[0]["image"])
    # The same image in the next epoch is cut anew.
    image = int(first[0]["index"][0])
    views = [
        b["image"][b["index"].tolist().index(image)] for b in first if image in b["index"].tolist()
    ]
    assert len(views) == 2 and not torch.equal(*views)


def test_processes_share_the_same_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = batches(opened(tmp_path))
    shares = []
    for rank in range(2):
        for place in (loading, module):
            monkeypatch.setattr(place, "process_rank", lambda rank=rank: (rank, 2))
        shares.append(batches(opened(tmp_path)))
    for whole, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))
        assert torch.equal(whole["label"], torch.cat([part["label"] for part in parts]))


def test_evaluation_gives_every_whole_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = opened(tmp_path, eval_batch_size=2)
    # One of another size, which no batch may mix with others.
    image, _ = street(1, 30, 40)
    Image.fromarray(image).save(tmp_path / "source" / "images" / "00009.png")
    Image.new("L", (40, 30), 7).save(tmp_path / "source" / "labels" / "00009.png")
    data = opened(tmp_path, eval_batch_size=2)
    for world in (1, 2, 3):
        seen: list[tuple[int, int]] = []
        for rank in range(world):
            monkeypatch.setattr(module, "process_rank", lambda r=rank, w=world: (r, w))
            for batch in data.val_dataloader():
                assert batch["image"].shape[-2:] == batch["label"].shape[-2:]
                seen += [(batch["domain"], i) for i in batch["index"].tolist()]
        assert sorted(seen) == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]


def test_size_batches_keep_sizes_and_domains_apart() -> None:
    sizes = [(0, 4, 4), (0, 4, 4), (0, 4, 5), (1, 4, 4), (0, 4, 4), (1, 4, 4)]
    assert size_batches(sizes, 2) == [[0, 1], [4], [2], [3, 5]]


def test_batches_arrive_normalised(tmp_path: Path) -> None:
    data = opened(tmp_path)
    batch = next(iter(data.val_dataloader()))
    raw = batch["image"].clone()
    out = data.on_after_batch_transfer(batch, 0)
    expected = (raw[:, 1].float() / 255 - 0.456) / 0.224
    torch.testing.assert_close(out["image"][:, 1], expected)
    assert out["label"].dtype == torch.int64 and out["label"].max() == 255


def test_results_say_what_the_data_are(tmp_path: Path) -> None:
    data = opened(tmp_path, source_name="drawn streets", target_name="others")
    said = data.describe()
    assert said["dataset"] == "drawn streets -> others (8+2 and 5 images)"
    assert (said["n_train"], said["n_test"], said["n_source"], said["n_target"]) == (8, 7, 2, 5)
    assert len(said["fingerprint"].split("-")) == 2
    assert opened(tmp_path).describe()["dataset"].startswith("source -> target (")


def test_the_lists_are_recorded_in_the_run(tmp_path: Path) -> None:
    data = opened(tmp_path, "test")
    data.trainer = SimpleNamespace(default_root_dir=str(tmp_path / "run"))  # type: ignore[assignment]
    data.setup("fit")
    lists = json.loads((tmp_path / "run" / "images.json").read_text())
    assert lists["source"]["train"] == [f"{i:05d}" for i in range(1, 9)]
    assert lists["source"]["val"] == ["00009", "00010"]
    assert len(lists["target"]["val"]) == 5 and lists["target"]["fingerprint"]


def test_roots_are_found_from_here_and_in_the_common_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path)
    monkeypatch.chdir(tmp_path)
    here = SourceAndTarget("/nowhere", "source", "target", batch_size=4)
    here.setup("fit")
    assert here.roots == (Path("source"), Path("target"))
    absolute = SourceAndTarget("/nowhere", str(tmp_path / "source"), "target", batch_size=4)
    assert absolute.roots[0] == tmp_path / "source"


def test_either_layout_serves_as_source_and_as_target(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "source", 4, parts=("train", "val"), kind="labelTrainIds")
    write_gta5(tmp_path / "target", 5, split=False)
    data = opened(tmp_path)
    said = data.describe()
    assert said["dataset"] == "source -> target (4+4 and 5 images)"
    crops = batches(data)[0]
    assert set(crops["label"].unique().tolist()) <= {0, 10, 13, 255}
    assert sum(len(batch["index"]) for batch in data.val_dataloader()) == 9


def test_missing_roots_are_both_named_with_a_way_on(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as error:
        SourceAndTarget(str(tmp_path), "gta5", "cityscapes")
    message = str(error.value)
    for part in (
        str(tmp_path / "gta5"),
        str(tmp_path / "cityscapes"),
        "are not there",
        "images/NNNNN.png",
        "leftImg8bit/<split>/<city>/",
        "https://www.cityscapes-dataset.com/",
        "https://download.visinf.tu-darmstadt.de/data/from_games/",
        "python -m data.prepare scenes --root DIR",
    ):
        assert part in message
    write_gta5(tmp_path / "gta5", 10)
    with pytest.raises(DataNotFoundError, match=r"but the target in .* is not there"):
        SourceAndTarget(str(tmp_path), "gta5", "cityscapes")
    with pytest.raises(DataNotFoundError, match="target"):
        SourceAndTarget(str(tmp_path), predict_root=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "`batch_size` to be at least 2"),
        ({"crop_size": 0}, "`crop_size`"),
        ({"scale": (2.0, 0.5)}, "`scale`"),
        ({"rotate": -1}, "`rotate`"),
        ({"pad": False, "crop_size": 16}, r"`crop_size` to fit.*0.5 is smaller.*pad true"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, **options)
    opened(tmp_path, pad=False, crop_size=12)


def test_accumulation_cuts_the_recipes_batch(tmp_path: Path) -> None:
    data = opened(tmp_path, batch_size=8)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=2, default_root_dir=str(tmp_path / "run")
    )
    whole = batches(opened(tmp_path, batch_size=8))
    parts = list(data.train_dataloader())
    assert [len(part["index"]) for part in parts] == [4, 4]
    assert torch.equal(torch.cat([p["image"] for p in parts]), whole[0]["image"])
    data.trainer.accumulate_grad_batches = 3
    with pytest.raises(ValueError, match=r"`batch_size` \(8\) to be a multiple"):
        data.train_dataloader()


def test_any_folder_of_images_can_be_predicted(tmp_path: Path) -> None:
    image, _ = street(1)
    (tmp_path / "mine" / "a").mkdir(parents=True)
    for name in ("a/1.jpg", "2.png"):
        Image.fromarray(image).save(tmp_path / "mine" / name)
    data = SourceAndTarget("/nowhere", predict_root=str(tmp_path / "mine"), workers=0)
    data.setup("predict")
    assert data.plain is not None and data.plain.names == ["2", "a__1"]
    assert [batch["image"].shape for batch in data.predict_dataloader()] == [(1, 3, 24, 32)] * 2
    empty = SourceAndTarget("/nowhere", predict_root=str(tmp_path / "mine" / "a" / "b"))
    with pytest.raises(DataNotFoundError, match="predict_root"):
        empty.setup("predict")
    # One prediction would overwrite the other.
    (tmp_path / "mine" / "a" / "1.png").write_bytes((tmp_path / "mine" / "2.png").read_bytes())
    with pytest.raises(ValueError, match=r"a/1\.jpg and .*a/1\.png: rename"):
        data.setup("predict")


def test_images_of_16_bits_are_read_as_8(tmp_path: Path) -> None:
    image, _ = street(1)
    grey = image[..., 0]
    Image.fromarray(grey.astype(np.uint16) << 8 | 7).save(tmp_path / "deep.png")
    read = read_image(tmp_path / "deep.png")
    assert read.dtype == torch.uint8 and (read.numpy() == grey).all()


def test_verify_names_all_that_cannot_be_used_before_the_run(tmp_path: Path) -> None:
    opened(tmp_path, verify=True)
    root = tmp_path / "source"
    Image.fromarray(np.full((24, 32), 99, np.uint8)).save(root / "labels" / "00003.png")
    image = root / "images" / "00005.png"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"15 images .* 2 are not.*00003.*99 \(768 .*00005"):
        opened(tmp_path, verify=True)
