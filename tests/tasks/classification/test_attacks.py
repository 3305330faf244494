from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.classification.attacks import AttackSpec, attack

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in [0, 1] that reach both ends, the same normalised, and labels."""
    pixels = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pixels = (pixels * 1.2 - 0.1).clamp(0, 1)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return pixels, (pixels - mean) / std, torch.arange(16) % 5


def to_pixels(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return images * std + mean


@pytest.mark.parametrize("train", [True, False])
def test_pgd_stays_in_the_ball_and_raises_the_loss(train: bool) -> None:
    network, (pixels, images, label) = classifier().train(train), inputs()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    spec, uniform = AttackSpec(), torch.rand(images.shape)
    found = attack(network, images, label, spec, mean=MEAN, std=STD, uniform=uniform)
    moved = to_pixels(found)
    assert (moved - pixels).abs().max() <= 8 / 255 + 1e-6
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    assert not found.requires_grad
    assert all(module.training == train for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    network.eval()
    started = images + 8 / 255 * (2 * uniform - 1) / torch.tensor(STD).view(1, 3, 1, 1)
    clean, start, end = (F.cross_entropy(network(x), label) for x in (images, started, found))
    assert end > clean + 0.05 and end > start + 0.05
    more = AttackSpec(steps=20)
    stronger = attack(network, images, label, more, mean=MEAN, std=STD, uniform=uniform)
    assert F.cross_entropy(network(stronger), label) >= end - 1e-3


def test_fgsm_is_one_signed_step() -> None:
    network, (pixels, images, label) = classifier().eval(), inputs()
    spec = AttackSpec(eps=4, step_size=4, steps=1, random_start=False)
    found = attack(network, images, label, spec, mean=MEAN, std=STD)
    x = pixels.clone().requires_grad_()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    F.cross_entropy(network((x - mean) / std), label).backward()
    assert x.grad is not None
    expected = (pixels + 4 / 255 * x.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(to_pixels(found), expected)
    with torch.inference_mode():
        testing = attack(network, images, label, spec, mean=MEAN, std=STD)
    torch.testing.assert_close(testing, found)


def test_labels_may_be_probabilities() -> None:
    network, (_, images, label) = classifier().eval(), inputs()
    spec = AttackSpec(random_start=False)
    hard = attack(network, images, label, spec, mean=MEAN, std=STD)
    soft = attack(network, images, F.one_hot(label, 5).float(), spec, mean=MEAN, std=STD)
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"eps": 0}, "`eps`"), ({"step_size": -1}, "`step_size`"), ({"steps": 0}, "`steps`")],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttackSpec(**options)


def test_a_random_start_needs_numbers() -> None:
    _, images, label = inputs()
    with pytest.raises(ValueError, match="`uniform`"):
        attack(classifier(), images, label, AttackSpec(), mean=MEAN, std=STD)
