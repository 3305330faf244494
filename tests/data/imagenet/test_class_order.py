"""Which class has which number where folders are named by numbers; folders without an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data.imagenet.folders import list_images
from data.images import has_two_orders
from tasks.adaptation.module import main as adapt
from tasks.classification.module import main
from tasks.engine.results import read_results
from tests.command_line import places, refusal

pytestmark = pytest.mark.usefixtures("in_the_repository")
CLASSES = 12
PATH = f"{__name__}.Greys"


class Greys(nn.Module):
    """Class k is an image of grey level 20 k: the nearest one by least squares.

    Number k has the logit 2 g k - k^2 of an image whose mean is g levels.
    """

    def __init__(self, *, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.fc = nn.Linear(1, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        level = (x[:, 0] * 0.229 + 0.485).mean((1, 2)) * 255 / 20
        return self.fc(level[:, None])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    number = torch.arange(CLASSES).float()
    torch.save({"fc.weight": 2 * number[:, None], "fc.bias": -(number**2)}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def write(root: Path, names: list[str], part: str = "val") -> Path:
    """Two images a class, the first of grey level 0, the next of 20, and so on."""
    for number, name in enumerate(names):
        (root / part / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40), (20 * number,) * 3).save(root / part / name / f"{i}.png")
    return root


def command(root: Path, weights: Path, *more: str) -> list[str]:
    options = ["--data.image_size=32", "--data.workers=0", "--data.corruptions=[]"]
    options += [f"--data.root={root}", f"--model.weights={weights}", f"--model.network={PATH}"]
    options += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return ["test", "--config=configs/imagenet.yaml", *options, *more, *places(root)]


def error(root: Path) -> float:
    (record,) = read_results(root / "results" / "classification.jsonl")
    return record["summary"]["error"]


def test_numbers_are_said_to_be_ordered_as_such(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "v2", [str(k) for k in range(CLASSES)])
    message = refusal(main, command(root, weights), capsys)
    assert "--data.class_order number" in message and "0, 1, 10" in message
    assert not (root / "results").exists()
    main(command(root, weights, "--data.class_order=number"))
    assert error(root) == 0


def test_names_are_the_order_that_is_asked_for(weights: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "own", [str(k) for k in range(CLASSES)])
    main(command(root, weights, "--data.class_order=name"))
    # 0, 1, 10, 11, 2, ...: the first two alone keep their numbers.
    assert error(root) == pytest.approx(10 / 12)


def test_names_with_leading_zeros_have_one_order(weights: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "padded", [f"{k:02}" for k in range(CLASSES)])
    main(command(root, weights))
    assert error(root) == 0


def test_words_are_no_numbers(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "words", [f"n{k:02}" for k in range(CLASSES)])
    message = refusal(main, command(root, weights, "--data.class_order=number"), capsys)
    assert "to be numbers" in message and "n00, n01" in message


def test_domains_with_given_weights_want_leading_zeros(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for domain in ("one", "two"):
        write(tmp_path / "set" / domain, [str(k) for k in range(CLASSES)], "images")
    options = [f"--data.root={tmp_path / 'set'}", "--data.source=one", "--data.target=two"]
    options += ["--data.batch_size=4", f"--model.weights={weights}", f"--model.network={PATH}"]
    options += ["--model.weights", str(weights), "--trainer.accelerator=cpu", *places(tmp_path)]
    message = refusal(adapt, ["test", "--config=configs/domains.yaml", *options], capsys)
    assert "leading zeros" in message


@pytest.mark.parametrize(
    ("names", "two"),
    [
        (["0", "1", "2"], False),
        (["1", "10", "2"], True),
        (["01", "10"], False),
        (["a", "9"], False),
    ],
)
def test_two_orders(names: list[str], two: bool) -> None:
    assert has_two_orders(names) == two


def test_order_of_a_listing(tmp_path: Path) -> None:
    write(tmp_path, ["10", "9", "8"])
    found: Any = list_images(tmp_path / "val", order="number")
    assert found.classes == ("8", "9", "10")
    assert [found.below(p) for p in (0, 5)] == ["8/0.png", "10/1.png"]
    assert list_images(tmp_path / "val").classes == ("10", "8", "9")


def test_nothing_to_skip_to(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "bad", [f"{k:02}" for k in range(CLASSES)])
    for file in root.glob("val/*/*.png"):
        file.write_bytes(b"no image")
    message = refusal(main, command(root, weights, "--data.skip_bad=true"), capsys)
    assert "24 of 24 files are not" in message and "None is left to use" in message
    assert "skip_bad" not in message and "limit_test_batches" not in message
