from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.attacks import AttackSpec, attacked, fgsm, pgd, random_start

EPS = 8 / 255


def small() -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 5)).eval()


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(n, 3, 8, 8, generator=generator)
    # Some at the ends of the range, where the clipping acts.
    pixels = (1.4 * pixels - 0.2).clamp(0, 1)
    return pixels, torch.arange(n) % 5


def gradient(net: nn.Module, pixels: Tensor, label: Tensor) -> Tensor:
    x = pixels.clone().requires_grad_()
    F.cross_entropy(net(x), label).backward()
    assert x.grad is not None
    return x.grad


def losses(net: nn.Module, pixels: Tensor, label: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(net(pixels), label, reduction="none")


def test_fgsm_is_one_signed_step() -> None:
    net, (pixels, label) = small(), batch()
    expected = (pixels + EPS * gradient(net, pixels, label).sign()).clamp(0, 1)
    adversarial = fgsm(net, pixels, label, eps=EPS)
    assert adversarial.equal(expected)
    assert (losses(net, adversarial, label) > losses(net, pixels, label)).all()


def test_pgd_is_projected_ascent() -> None:
    net, (pixels, label) = small(), batch()
    x = pixels.clone()
    for _ in range(7):
        x = x + 2 / 255 * gradient(net, x, label).sign()
        x = pixels + (x - pixels).clamp(-EPS, EPS)
        x = x.clamp(0, 1)
    adversarial = pgd(net, pixels, label, eps=EPS, step=2 / 255, steps=7)
    torch.testing.assert_close(adversarial, x, rtol=0, atol=1e-6)
    assert pgd(net, pixels, label, eps=EPS, step=EPS, steps=1).equal(
        fgsm(net, pixels, label, eps=EPS)
    )


def test_pgd_finds_a_linear_networks_worst_image() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    pixels, label = 0.3 + 0.4 * torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    weight = net[1].weight.detach()
    # The margin w_other - w_true grows fastest along its sign.
    away = (weight[1 - label] - weight[label]).view_as(pixels)
    worst = pixels + EPS * away.sign()
    found = pgd(net, pixels, label, eps=EPS, step=2 / 255, steps=10)
    torch.testing.assert_close(found, worst, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("eps", [1.0, 8.0, 200.0])
def test_attacks_stay_within_eps_and_the_range(attack: str, eps: float) -> None:
    net, (pixels, label) = small(), batch()
    spec = AttackSpec(eps=eps, step=3.0, steps=4)
    index = torch.arange(6)
    adversarial = attacked(net, pixels, label, attack, spec, index=index, seed=0)  # type: ignore[arg-type]
    assert (adversarial - pixels).abs().max() <= eps / 255 + 1e-6
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (adversarial != pixels).float().mean() > 0.4
    assert not adversarial.requires_grad and all(p.grad is None for p in net.parameters())


def test_random_starts_are_uniform_and_follow_seed_and_image() -> None:
    pixels = torch.full((4, 3, 20, 20), 0.5)
    index = torch.tensor([3, 9, 4, 100_000_000_000])
    start = random_start(pixels, index, seed=1, eps=EPS)
    moved = (start - pixels) / EPS
    assert moved.min() >= -1 and moved.max() <= 1
    assert abs(moved.mean()) < 0.03 and abs(moved.var() - 1 / 3) < 0.02
    order = torch.tensor([2, 0, 3, 1])
    assert random_start(pixels, index[order], seed=1, eps=EPS).equal(start[order])
    other = random_start(pixels, index, seed=2, eps=EPS)
    assert not other.equal(start) and not start[0].equal(start[1])
    assert random_start(torch.zeros_like(pixels), index, seed=1, eps=EPS).min() == 0


def test_an_images_attack_does_not_depend_on_its_batch() -> None:
    net, (pixels, label) = small(), batch()
    spec, index = AttackSpec(steps=3), torch.arange(6)
    together = attacked(net, pixels, label, "pgd", spec, index=index, seed=0)
    for own in (slice(0, 1), slice(1, 4), slice(4, 6)):
        alone = attacked(net, pixels[own], label[own], "pgd", spec, index=index[own], seed=0)
        torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "`eps`"),
        ({"eps": 256}, "`eps`"),
        ({"step": -1}, "`step`"),
        ({"steps": 0}, "`steps`"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttackSpec(**options)  # type: ignore[arg-type]
