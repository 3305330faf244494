from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.generated.scene_drawing import draw_scene
from data.generated.scenes import write_scenes
from data.prepare.__main__ import main
from data.randomness import generator_for
from data.segmentation.labels import LABELS
from data.segmentation.layouts import open_collection
from data.segmentation.sets import read_pair


def scene(domain: str, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = generator_for(0, domain, number)
    return draw_scene(domain, width=96, height=64, generator=generator)  # type: ignore[arg-type]


def test_a_scene_is_a_function_of_its_generator() -> None:
    for domain in ("day", "dusk"):
        (image, ids), (again, ids_again) = scene(domain), scene(domain)
        assert image.shape == (64, 96, 3) and ids.shape == (64, 96)
        assert (image == again).all() and (ids == ids_again).all()
        assert (image != scene(domain, 1)[0]).any()


def test_scenes_hold_streets_under_a_sky() -> None:
    known = {label.name: label.id for label in LABELS}
    found: set[int] = set()
    for number in range(6):
        _, ids = scene("day", number)
        found |= set(np.unique(ids).tolist())
        rows = np.arange(64)[:, None]
        height = {n: rows[ids.any(1) & (ids == known[n]).any(1)].mean() for n in ("sky", "road")}
        assert height["sky"] < height["road"]
    expected = {"road", "sidewalk", "building", "vegetation", "sky", "person", "car", "ego vehicle"}
    assert {known[name] for name in expected} <= found <= set(known.values())


def test_the_domains_differ_in_look_not_in_layout() -> None:
    """Brightness and hue part them, class frequencies do not."""
    looks, roads = {}, {}
    for domain in ("day", "dusk"):
        scenes = [scene(domain, number) for number in range(12)]
        looks[domain] = np.stack([image for image, _ in scenes]).mean((0, 1, 2))
        roads[domain] = np.mean([(ids == 7).mean() for _, ids in scenes])
    assert (looks["day"] - looks["dusk"]).min() > 15
    assert abs(roads["day"] - roads["dusk"]) < 0.1


def test_the_command_makes_both_layouts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["scenes", "--root", str(tmp_path), "--source", "8", "--target", "3"]
    options += ["--width", "48", "--height", "32"]
    assert main(options) == 0
    assert "configs/scenes.yaml" in capsys.readouterr().out
    source = open_collection(tmp_path / "scenes-day", ("train", "val"))
    target = open_collection(tmp_path / "scenes-dusk", ("val",))
    assert (source.layout, target.layout) == ("gta5", "cityscapes")
    counts = [len(part) for part in (*source.parts.values(), *target.parts.values())]
    assert counts == [6, 2, 3] and source.notes == [] and source.title is None
    label = Image.open(tmp_path / "scenes-day" / "labels" / "00001.png")
    assert label.mode == "P"
    for pair in (*source.parts["train"], *target.parts["val"]):
        read_pair(pair)  # every value is known
    before = (tmp_path / "scenes-day" / "images" / "00001.png").stat().st_mtime_ns
    assert main(options) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "scenes-day" / "images" / "00001.png").stat().st_mtime_ns == before
    assert main([*options, "--seed", "1"]) == 1
    assert "made with" in capsys.readouterr().err


def test_interrupted_scenes_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"source": 8, "target": 2, "width": 32, "height": 32, "seed": 0}
    save = Image.Image.save

    def failing(self: Image.Image, path: Path) -> None:
        if "gtFine" in str(path):
            raise KeyboardInterrupt
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, **sizes)
    assert (tmp_path / "scenes-day").is_dir() and not (tmp_path / "scenes-dusk").exists()
    monkeypatch.undo()
    assert write_scenes(tmp_path, **sizes) and (tmp_path / "scenes-dusk").is_dir()
    with pytest.raises(ValueError, match="at least 8x8"):
        write_scenes(tmp_path, **{**sizes, "width": 2})
