"""Losses of AugMix and adversarial training, and the overlays of configs/augment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnsn import CNSNSpec
from cnsn.nets import wide_resnet
from data.randomness import derive_seed
from tasks.classification.attacks import AttackSpec, adversarial_images
from tasks.classification.module import Classification, main
from tasks.engine.base import CrossNormTraining
from tests.command_line import places, refusal
from tests.tasks.engine.test_cli import DIGITS, SHORT, final_state

OVERLAYS = {"augmix", "cutout", "mixup", "cutmix", "autoaugment", "adversarial"}


def module(kind: Any = "none", **options: Any) -> tuple[Classification, dict[str, Tensor]]:
    """A small module, and where it will write its losses."""
    torch.manual_seed(0)
    crossnorm = CrossNormTraining(p=1.0, consistency=options.pop("consistency", 0.0))
    network = wide_resnet(depth=10, width=1, num_classes=4)
    made = Classification(network, CNSNSpec(kind=kind), crossnorm, **options)
    logged: dict[str, Tensor] = {}
    made.log_losses = lambda **losses: logged.update(losses)  # type: ignore[method-assign]
    return made.train(), logged


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    image, *views = torch.randn(3, 8, 3, 16, 16, generator=generator).unbind(0)
    return {"image": image, "views": views, "label": torch.arange(8) % 4, "number": 3, "epoch": 0}


def divergence(logits: list[Tensor]) -> Tensor:
    """JSD as the released code of AugMix writes it."""
    p = [F.softmax(part, 1) for part in logits]
    mixture = torch.clamp(sum(p, torch.tensor(0.0)) / len(p), 1e-7, 1).log()
    return sum(F.kl_div(mixture, part, reduction="batchmean") for part in p) / len(p)  # type: ignore


def test_augmix_loss_equals_the_published_one_in_one_forward() -> None:
    own, logged = module()
    reference, _ = module()
    calls = []
    own.network.register_forward_pre_hook(lambda net, args: calls.append(args[0].shape))
    content = batch()
    loss = own.training_step(content, 0)
    assert calls == [(24, 3, 16, 16)]
    # Batch norm sees the three views together.
    logits = reference.network(torch.cat([content["image"], *content["views"]])).split(8)
    ce = F.cross_entropy(logits[0], content["label"])
    torch.testing.assert_close(logged["augmix"], divergence(list(logits)))
    torch.testing.assert_close(loss, ce + 12 * divergence(list(logits)))
    torch.testing.assert_close(own.network.state_dict(), reference.network.state_dict())


def test_augmix_with_consistency_adds_two_crossnorm_views_of_the_clean_image() -> None:
    own, logged = module("cn", consistency=10.0)
    seen = []
    own.network.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    content = batch()
    loss = own.training_step(content, 0)
    assert [len(x) for x in seen] == [24, 8, 8]
    assert torch.equal(seen[1], content["image"]) and torch.equal(seen[2], content["image"])
    assert logged["jsd"] > 0
    torch.testing.assert_close(
        loss, logged["ce"] + 12 * logged["augmix"] + 10 * logged["jsd"], rtol=1e-5, atol=1e-5
    )


def test_crossnorm_without_consistency_acts_on_all_views_at_once() -> None:
    own, logged = module("cn")
    plain, without = module()
    assert own.training_step(batch(), 0) != plain.training_step(batch(), 0)
    assert set(logged) == set(without) == {"loss", "ce", "augmix"}


def test_views_equal_to_the_image_cost_nothing() -> None:
    own, logged = module()
    own.network.eval()
    content = batch()
    content["views"] = [content["image"]] * 2
    loss = own.training_step(content, 0)
    assert logged["augmix"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(loss, logged["ce"], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="`augmix`"):
        module(augmix=-1.0)


def trained(folder: Path, *overlays: str) -> dict[str, Tensor]:
    """The weights after two steps."""
    options = [*DIGITS, *SHORT, "--trainer.max_steps=2", "--model.cnsn.kind=cnsn"]
    main(["fit", *options, *overlays, *places(folder)])
    return final_state(folder)["state_dict"]


@pytest.mark.usefixtures("in_the_repository")
def test_every_overlay_trains_and_changes_what_is_learnt(tmp_path: Path, root: Path) -> None:
    plain = trained(tmp_path / "plain")
    files = sorted((root / "configs" / "augment").glob("*.yaml"))
    assert {path.stem for path in files} == OVERLAYS
    for path in files:
        weights = trained(tmp_path / path.stem, f"--config={path}")
        assert all(value.isfinite().all() for value in weights.values())
        changes = [(weights[name] - value).abs().max() for name, value in plain.items()]
        assert max(changes) > 1e-3, path.stem


@pytest.mark.usefixtures("in_the_repository")
def test_contradictions_end_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*names: str) -> str:
        overlays = [f"--config=configs/augment/{name}.yaml" for name in names]
        return refusal(main, ["fit", *DIGITS, *SHORT, *overlays, *places(tmp_path)], capsys).strip()

    assert "end with Mixup" in message("mixup", "augmix")
    assert "AugMix, but got both" in message("adversarial", "augmix")
    assert not list(tmp_path.rglob("*.ckpt"))
    single = message("mixup", "augmix").splitlines()[-1]
    assert single.startswith("error: Expected") and "Union" not in single


class Data:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def test_adversarial_images_are_near_and_raise_the_loss_and_leave_the_network() -> None:
    own, _ = module()
    before = {name: value.clone() for name, value in own.network.state_dict().items()}
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (Data.mean, Data.std))
    pixels = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    content = {"label": torch.arange(16) % 4, "index": torch.arange(16) * 5}
    content["image"] = (pixels - mean) / std
    found = adversarial_images(own, content, AttackSpec(steps=7), data=Data(), seed=3)
    moved = found * std + mean
    assert (moved - pixels).abs().max() <= 8 / 255 + 1e-5
    assert moved.min() >= -1e-5 and moved.max() <= 1 + 1e-5
    assert all(part.training for part in own.modules()) and not found.requires_grad
    torch.testing.assert_close(own.network.state_dict(), before, rtol=0, atol=0)
    own.eval()
    clean, end = (F.cross_entropy(own(x), content["label"]) for x in (content["image"], found))
    assert end > clean
    part = {key: value[[5, 1]] for key, value in content.items()}
    again = adversarial_images(own, part, AttackSpec(steps=7), data=Data(), seed=3)
    torch.testing.assert_close(again, found[[5, 1]], rtol=0, atol=1e-4)


def test_adversarial_training_learns_from_the_attacked_images() -> None:
    own, logged = module(adversarial=AttackSpec(steps=2))
    reference, _ = module()
    own._trainer = SimpleNamespace(datamodule=Data(), global_rank=0)  # type: ignore[assignment]
    content = {**batch(), "index": torch.arange(8), "views": []}
    seen = []
    own.network.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    own.training_step(content, 0)
    assert len(seen) == 3  # two steps of the attack, then the training forward
    seed = derive_seed(0, "adversarial", 0)
    attacked = adversarial_images(reference, content, AttackSpec(steps=2), data=Data(), seed=seed)
    torch.testing.assert_close(seen[-1], attacked)
    expected = F.cross_entropy(reference.network(attacked), content["label"])
    torch.testing.assert_close(logged["loss"], expected)
