"""A run goes on with the training data that it began with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
from PIL import Image

from data.classification.cifar import CIFAR
from data.classification.digits import Digits
from data.domains.module import DomainPair
from data.imagenet.module import ImageNet
from data.segmentation.module import SourceAndTarget
from data.text.module import IMDbToSST2
from tasks.runs.checkpoints import write_checkpoint
from tasks.runs.same_run import SameRun
from tests.fakes import reviews, write_cifar, write_domains, write_imagenet, write_imdb, write_sst2
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import (
    checkpoint,
    options,
    run_directory,
    succeeded,
)
from tests.segmentation_fakes import write_cityscapes, write_gta5

pytestmark = pytest.mark.promise("a run goes on with the training data that it began with")
NEGATIVE, POSITIVE = "aclImdb/train/neg/0_2.txt", "aclImdb/train/pos/0_9.txt"


def exchanged(texts: dict[str, str]) -> dict[str, str]:
    """The same words and lengths, but two reviews have each other's label."""
    return {**texts, NEGATIVE: texts[POSITIVE], POSITIVE: texts[NEGATIVE]}


def test_other_training_data_are_refused(warm: Launcher, data: Path, tmp_path: Path) -> None:
    texts = reviews(28)
    for name, content in (("first", texts), ("second", exchanged(texts))):
        write_imdb(tmp_path / name, content, pack=True)

    def fit(imdb: Path, *more: str, place: str = "run") -> list[str]:
        return ["fit", *options("text", data, tmp_path / place, f"--data.imdb={imdb}", *more)]

    link = tmp_path / "imdb"  # what lies at a path is replaced
    shutil.copytree(tmp_path / "first", link)
    assert warm.run("text", fit(link), Fault("step", 2, "SIGTERM")).code == 143
    before = run_directory(tmp_path / "run") / "checkpoints" / "last.ckpt"
    content = before.read_bytes()
    known = checkpoint(tmp_path / "run")["training_data"]
    shutil.copytree(tmp_path / "second", link, dirs_exist_ok=True)
    process = warm.run("text", fit(link))
    assert process.code == 1 and "Traceback" not in process.output()
    said = process.output().rpartition("error: ")[2]
    assert f"that the run began with, of fingerprint {known}, but got others, of fing" in said
    assert "--fresh true" in said and before.read_bytes() == content
    # A new run, beside it or from its checkpoint, may have them.
    output = succeeded(warm.run("text", fit(link, f"--ckpt_path={before}", place="other")))
    other = checkpoint(tmp_path / "other")["training_data"]
    assert f"trained on data of fingerprint {known}, this run on others, of fing" in output
    assert other != known and f"of fingerprint {other}" in said
    # With the former ones it goes on, as does a run of before, whose checkpoint names none.
    shutil.copytree(tmp_path / "first", link, dirs_exist_ok=True)
    old = checkpoint(tmp_path / "run")
    del old["training_data"]
    write_checkpoint(old, before)
    succeeded(warm.run("text", fit(link)))
    assert checkpoint(tmp_path / "run")["training_data"] == known


def test_a_moved_run_that_started_from_another_still_goes_on(tmp_path: Path) -> None:
    """What it started from has moved too: its own checkpoints tell that it is the same run."""
    stored = {"recipe": {"start": "/old/last.ckpt"}, "training_data": "a", "should_stop": True}
    same = SameRun(tmp_path / "checkpoints")

    def trainer(folder: Path) -> Any:
        path, state = folder / "last.ckpt", SimpleNamespace(fn="fit")
        return SimpleNamespace(ckpt_path=path, state=state, should_stop=False)

    own, other = trainer(tmp_path / "checkpoints"), trainer(tmp_path / "other" / "checkpoints")
    for started in (own, other):
        same.on_load_checkpoint(started, L.LightningModule(), stored)
    assert own.should_stop and not other.should_stop
    same._fingerprint = "b"
    with pytest.raises(ValueError, match="fingerprint a, but got others, of fingerprint b"):
        same.on_load_checkpoint(own, L.LightningModule(), stored)
    same.on_load_checkpoint(other, L.LightningModule(), stored)


Made = tuple[Callable[[], Any], Path, Path]


def _cifar(root: Path) -> Made:
    folder = write_cifar(root) / "cifar-10-batches-py"
    return lambda: CIFAR(str(root), corruptions=[]), folder / "data_batch_2", folder / "test_batch"


def _imagenet(root: Path) -> Made:
    write_imagenet(root)
    train, val = (next((root / part).rglob("*.JPEG")) for part in ("train", "val"))
    return lambda: ImageNet(str(root), corruptions=[], workers=0), train, val


def _segmentation(root: Path) -> Made:
    write_gta5(root / "source", 12)
    write_cityscapes(root / "target", 3)
    # The parts of split.mat: 1 to 8 are trained on.
    names = sorted((root / "source" / "images").iterdir())
    target = next((root / "target" / "leftImg8bit").rglob("*.png"))
    return (
        lambda: SourceAndTarget(
            str(root), source_root="source", target_root="target", crop_size=16, workers=0
        ),
        names[0],
        target,
    )


def _domains(root: Path) -> Made:
    write_domains(root, {"a": {"x": 5, "y": 5}, "b": {"x": 5, "y": 5}, "c": {"x": 2, "y": 2}})
    one, unused = (next((root / domain).rglob("*.png")) for domain in ("b", "c"))
    return (
        lambda: DomainPair(str(root), source="a", target="b", resize=24, crop=16, batch_size=4),
        one,
        unused,
    )


def _text(root: Path) -> Made:
    write_imdb(root, reviews(8), pack=False)
    write_sst2(root)
    train = root / NEGATIVE
    return lambda: IMDbToSST2(str(root), str(root)), train, root / "SST-2" / "dev.tsv"


def print_of(make: Callable[[], Any]) -> str:
    module = make()
    module.setup("fit")
    return module.training_fingerprint()


def change(path: Path) -> None:
    if path.suffix in (".png", ".JPEG"):
        with Image.open(path) as image:
            noise = np.random.default_rng(0).integers(0, 255, (image.height, image.width, 3))
        Image.fromarray(noise.astype(np.uint8)).save(path)
    elif path.suffix == ".txt":
        path.write_text(path.read_text() + " " + path.read_text())
    elif path.suffix == ".tsv":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]))
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1  # in the images, which are most of it
        path.write_bytes(content)


@pytest.mark.filterwarnings("ignore:.*has the layout of")
@pytest.mark.parametrize("make", [_cifar, _imagenet, _segmentation, _domains, _text])
def test_the_fingerprint_is_of_what_is_trained_on(
    make: Callable[[Path], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path / "cache"))
    module, trained_on, other = make(tmp_path / "data")
    first = print_of(module)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert print_of(module) == first == print_of(make_at(make, tmp_path / "copy"))
    change(other)
    assert print_of(module) == first
    change(trained_on)
    assert print_of(module) not in (None, first)


def make_at(make: Callable[[Path], Made], copied: Path) -> Callable[[], Any]:
    """The module of data that were copied."""
    away = copied.with_name("away")
    copied.rename(away)
    module = make(copied)[0]
    shutil.rmtree(copied)
    away.rename(copied)
    return module


def test_a_stored_fingerprint_is_found_again_by_later_versions() -> None:
    assert print_of(lambda: Digits(corruptions=[])) == "7f73ccbe7b067f58"
