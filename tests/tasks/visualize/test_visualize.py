"""Figures of the layers: what they are made from, and that the command draws them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnsn import SelfNorm
from tasks.classification.module import main as classification
from tasks.visualize.__main__ import main
from tasks.visualize.exchange import bundled_photographs, exchanged, read_photograph
from tasks.visualize.features import decode, exchange_at
from tasks.visualize.shift import distance, distances_of, gates, gates_of, statistics_of
from tasks.visualize.trained import Trained, load_trained


def test_images_take_over_each_other_s_statistics() -> None:
    first, second = bundled_photographs(64)
    assert first.shape == second.shape == (1, 3, 43, 64) and 0 <= first.min() <= first.max() <= 1
    swapped = exchanged(first, second)
    for got, style, content in zip(swapped, (second, first), (first, second), strict=True):
        for channel in range(3):
            own, other = got[0, channel].numpy(), style[0, channel].numpy()
            assert own.mean() == pytest.approx(other.mean(), abs=1e-5)
            assert own.std() == pytest.approx(other.std(), rel=1e-3)
            # The shapes stay: a straight line from the content's values to the new ones.
            line = np.corrcoef(content[0, channel].flatten(), own.flatten())[0, 1]
            assert line == pytest.approx(1, abs=1e-5)


def test_photographs_of_all_kinds_are_read(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    turned = Image.Exif()
    turned[0x0112] = 6  # by a quarter, as cameras note it
    grey.save(tmp_path / "grey.jpg", exif=turned)
    assert read_photograph(tmp_path / "grey.jpg").shape == (1, 3, 20, 10)
    Image.new("RGBA", (300, 100), (255, 0, 0, 9)).save(tmp_path / "clear.png")
    image = read_photograph(tmp_path / "clear.png", 60)
    assert image.shape == (1, 3, 20, 60) and image[0, :, 5, 5].tolist() == [1, 0, 0]
    (tmp_path / "none.png").write_text("no image")
    with pytest.raises(ValueError, match=r"Expected .*none\.png to be an image"):
        read_photograph(tmp_path / "none.png")


def test_a_distance_of_one_is_what_clean_images_differ_by() -> None:
    clean = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.0])
    assert distance(clean, clean) == 0
    moved = clean + clean.std(0)
    assert distance(clean, moved) == pytest.approx(1, abs=1e-5)
    assert distance(7 * clean, 7 * moved) == pytest.approx(1, abs=1e-5)
    assert distance(torch.zeros(4, 2), torch.zeros(4, 2)) == 0


def test_gates_are_those_that_the_layer_multiplies_by() -> None:
    layer = SelfNorm(5)
    torch.nn.init.normal_(layer.g_fc.weight)
    layer(torch.randn(8, 5, 4, 4) * 3 + 1)
    layer.eval()
    x = torch.randn(6, 5, 7, 7) + 2
    mean, std = x.mean((2, 3)), x.flatten(2).std(2)
    made = gates(layer, mean, std)
    assert made.shape == (6, 5) and 0 < made.min() < made.max() < 1
    torch.testing.assert_close(made[:, :, None, None] * x, layer(x))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network with SelfNorm, trained for some steps on bundled digits."""
    folder = tmp_path_factory.mktemp("visualize")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        patch.setattr("sys.argv", ["pytest"])
        options = [
            "--config=configs/digits.yaml",
            "--data.corruptions=[contrast,fog]",
            "--model.cnsn.kind=sn",
            "--trainer.max_steps=12",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--runs={folder}",
            "--name=a/few_steps",
        ]
        classification(["fit", *options])
    (found,) = folder.rglob("last.ckpt")
    return found


@pytest.fixture(scope="module")
def trained(checkpoint: Path) -> Trained:
    return load_trained(checkpoint)


def test_a_run_is_looked_at_as_it_was_trained(trained: Trained, checkpoint: Path) -> None:
    assert trained.name == "few steps" and not trained.module.training
    assert len(trained.sites) == 3
    for site in trained.sites.values():
        assert site.selfnorm is not None and site.crossnorm is not None
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for key, value in trained.module.state_dict().items():
        torch.testing.assert_close(value, state[key])
    conditions = trained.conditions(2)
    assert list(conditions) == ["clean", "contrast", "fog"]
    assert trained.data.groups[conditions["fog"]] == ("fog", 2)
    clean, fog = (trained.images(conditions[c], 30) for c in ("clean", "fog"))
    assert clean.shape == fog.shape == (30, 3, 16, 16) and not torch.equal(clean, fog)
    with pytest.raises(ValueError, match="severity 7"):
        trained.conditions(7)


def test_statistics_are_those_before_and_after_the_layers(trained: Trained) -> None:
    images = trained.images(0, 7)
    found = statistics_of(trained, images, batch=3)
    made = gates_of(trained, images, batch=2)
    name, site = next(iter(trained.sites.items()))
    inputs: list[torch.Tensor] = []
    handle = site.register_forward_hook(lambda _, x, y: inputs.extend([x[0], y]))
    with torch.no_grad():
        trained.module(trained.inputs(images))
    handle.remove()
    before, after = inputs
    torch.testing.assert_close(found[name].before[0], before.mean((2, 3)))
    torch.testing.assert_close(found[name].after[1], after.flatten(2).std(2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made[name][:, :, None, None] * before, after, rtol=1e-4, atol=1e-5)
    # A gate scales both statistics.
    torch.testing.assert_close(found[name].after[0], made[name] * found[name].before[0])
    again = distances_of(found, statistics_of(trained, trained.images(1, 7)))
    assert len(again.before) == len(again.after) == 3
    assert all(v > 0 for side in again for pair in side for v in pair)


def test_crossnorm_acts_at_one_site_and_leaves_no_trace(trained: Trained) -> None:
    images = torch.cat([trained.images(0, 1), trained.images(1, 2)[1:]])
    with torch.no_grad():
        before = trained.module(trained.inputs(images))
    name = list(trained.sites)[1]
    exchange = exchange_at(trained, name, images)
    own, style = exchange.after[0].flatten(1), exchange.before[1].flatten(1)
    alive = exchange.before[0].flatten(1).std(1) > 1e-2
    assert alive.sum() >= 4
    torch.testing.assert_close(own.mean(1)[alive], style.mean(1)[alive], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(own.std(1)[alive], style.std(1)[alive], rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(trained.module(trained.inputs(images)), before)
    assert not any(m.training for m in trained.module.modules())


def test_decoding_finds_an_image_with_the_wanted_features(trained: Trained) -> None:
    images = trained.images(0, 2)
    name = next(iter(trained.sites))
    target = exchange_at(trained, name, images).before[1:]
    found, left = decode(trained, name, target, images[:1], steps=60)
    assert found.shape == (1, 3, 16, 16) and found.min() >= 0 and found.max() <= 255
    assert left < 0.4
    # The features are those of the other digit, and so is the image.
    other, own = images[1:].float(), images[:1].float()
    assert (found - other).abs().mean() < 0.6 * (own - other).abs().mean()


def test_the_command_draws_every_figure(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    out = tmp_path / "out"
    options = ["--out", str(out), "--ckpt_path", str(checkpoint), "--limit", "20"]
    images = ["--images", str(tmp_path / "1.png"), str(tmp_path / "2.png")]
    assert main([*options, *images]) == 0
    said = capsys.readouterr().out
    for name in ("exchange", "features", "distances", "gates"):
        with Image.open(out / f"{name}.png") as figure:
            assert min(figure.size) > 300
        assert f"{name}.png: " in said
    assert "after SelfNorm" in said


def test_bad_input_is_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path)]
    cases = {
        "to be a checkpoint in a run directory": ["--ckpt_path", str(tmp_path / "no.ckpt")],
        "`--severity` to be from 1 to 5": ["--severity", "6"],
        "`--limit` to be at least 2": ["--limit", "1"],
        "to be an image": ["--images", str(checkpoint), str(checkpoint)],
    }
    for sentence, options in cases.items():
        only = ["--only", "exchange" if "--images" in options else "gates"]
        assert main([*common, *only, *options]) == 1, sentence
        said = capsys.readouterr().err
        assert said.startswith("error: Expected") and sentence in said
    other = tmp_path / "run" / "checkpoints"
    other.mkdir(parents=True)
    (other / "last.ckpt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "run" / "config.yaml").write_text("name: x\nmodel: {crossnorm: {p: 1}}\n")
    assert main([*common, "--only", "gates", "--ckpt_path", str(other / "last.ckpt")]) == 1
    assert "another task" in capsys.readouterr().err
