"""Pictures of finished runs: what they are made from, and that they are drawn."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from data.generated import domains as generated_domains
from tasks.adaptation.embeddings import TrainedRun, lay_out, main
from tasks.adaptation.figures import confusion_figure, mistakes_figure
from tasks.adaptation.module import main as adaptation
from tasks.engine.results import read_results


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trained runs of the same domains, and the folder of their results."""
    folder = tmp_path_factory.mktemp("pictures")
    generated_domains.make(Namespace(root=folder / "data", images=3, size=32, seed=0))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        patch.setattr("sys.argv", ["pytest"])
        for name, norm in (("plain", "source"), ("adapted", "per_domain")):
            options = [
                "--config=configs/domains.yaml",
                f"--data.root={folder / 'data'}",
                "--data.source=plain",
                "--data.target=dim",
                "--data.resize=32",
                "--data.crop=32",
                "--data.batch_size=8",
                "--model.network.init_args.width=4",
                "--model.network.init_args.blocks=[1]",
                "--model.cnsn.kind=sn",
                f"--model.batch_norm={norm}",
                "--trainer.max_epochs=1",
                "--trainer.accelerator=cpu",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                f"--runs={folder / 'runs'}",
                f"--results={folder / 'results'}",
                f"--name={name}",
            ]
            adaptation(["fit", *options])
            adaptation(["test", *options])
            found += (folder / "runs" / "adaptation" / name).iterdir()
    return [*found, folder / "results"]


def test_a_run_is_loaded_as_it_was_tested(runs: list[Path]) -> None:
    records = list(read_results(runs[2] / "adaptation.jsonl"))
    for directory, record in zip(runs[:2], records, strict=True):
        run = TrainedRun(directory)
        source, target = run.embed_both()
        assert source.features.shape == target.features.shape == (18, 4)
        logits = run.module.network.fc(target.features)
        torch.testing.assert_close(torch.softmax(logits, -1), target.probabilities)
        labels = torch.arange(6).repeat_interleave(3)
        accuracy = (target.probabilities.argmax(1) == labels).double().mean().item()
        assert accuracy == pytest.approx(record["summary"]["accuracy"])


def test_the_command_draws_three_pictures(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, _ = map(str, runs)
    command = ["--before", before, "--after", after, "--out", str(tmp_path / "new")]
    assert main([*command, "--images", "12"]) == 0
    names = ["tsne.png", "confusion.png", "mistakes.png"]
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "new" / n) for n in names]
    for name in names:
        with Image.open(tmp_path / "new" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5
    assert main(["--before", before, "--after", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "to be a run directory" in capsys.readouterr().err


def test_the_layout_keeps_neighbours_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(4, 30, generator=generator)
    labels = torch.arange(4).repeat_interleave(25)
    features = centres[labels] + torch.randn(100, 30, generator=generator)
    points = lay_out(features)
    nearest = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(return_distance=False)
    assert (labels.numpy()[nearest] == labels.numpy()[:, None]).all()
    assert np.array_equal(points, lay_out(features))


def test_the_worst_mistakes_are_the_most_confident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    from matplotlib.axes import Axes

    monkeypatch.setattr(Axes, "imshow", lambda self, image, **_: shown.append(int(image[0, 0, 0])))
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.55, 0.45]])
    labels = np.array([1, 0, 1, 1, 1])
    mistakes_figure(images, labels, probabilities, "ab", "t", tmp_path / "m.png", rows=1, columns=3)
    # 0 (0.9), 3 (0.7), 1 (0.6) and 4 (0.55) are wrong; three have room.
    assert shown == [0, 3, 1]


def test_the_confusion_matrix_shows_shares_of_the_true_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    said: dict[tuple[int, int], str] = {}
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **_: said.update({(y, x): s}))
    confusion_figure(np.array([[3, 1], [0, 8]]), "ab", "t", tmp_path / "c.png")
    assert said == {(0, 0): "75", (0, 1): "25", (1, 0): "0", (1, 1): "100"}
