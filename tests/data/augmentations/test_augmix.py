from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.pil_operations import augmix_value, pil_operation
from data.augmentations.augmix import POOL, augmix, draw_plan, mix_chains
from data.randomness import sample_uniform
from tests.data.augmentations.test_tensor_ops import from_pil, pictures, to_pil

OPTIONS = {"width": 3, "depth": None, "severity": 3}


def in_pillow(image: Image.Image, uniform: list[float], severity: float, width: int) -> Tensor:
    """The reference's loop over chains, with given uniform numbers in place of NumPy's draws."""
    share, *rest = uniform
    chains = np.array(rest).reshape(width, -1)
    parts = -np.log(1 - chains[:, 0])
    mixed = torch.zeros(3, 32, 32)
    for part, (_, length, *draws) in zip(parts / parts.sum(), chains, strict=True):
        chain, (names, strengths, sides) = image, np.array(draws).reshape(3, 3)
        for step in range(1 + int(length * 3)):
            name = list(POOL)[int(names[step] * 9)]
            level = 0.1 + strengths[step] * (severity - 0.1)
            value = augmix_value(name, level, -1 if sides[step] < 0.5 else 1)
            chain = pil_operation(chain, name, value)
        mixed += float(part) * from_pil(chain).float()
    return (1 - share) * from_pil(image).float() + share * mixed


@pytest.mark.parametrize(("severity", "width"), [(3, 3), (10, 2), (1, 1)])
def test_views_equal_the_reference_in_pillow(severity: float, width: int) -> None:
    images = pictures(n=60)
    index = torch.randperm(50_000)[:60]
    ours = augmix(images, index, seed=3, severity=severity, width=width)
    uniform = sample_uniform(3, index, 1 + width * 11).tolist()
    errors = [
        (in_pillow(to_pil(image), draws, severity, width) - view).abs().mean()
        for image, draws, view in zip(images, uniform, ours, strict=True)
    ]
    # Of 255 levels; a chain that equalises what another rounding made may differ by more.
    assert torch.stack(errors).mean() < 0.1 and max(errors) < 1


def test_plan_has_the_published_distributions() -> None:
    plan = draw_plan(torch.arange(40_000), seed=1, pixels=32, **OPTIONS)
    assert (plan.weight >= 0).all()
    torch.testing.assert_close(plan.weight.sum(1), torch.ones(40_000))
    assert plan.weight[:, 0].mean() == pytest.approx(0.5, abs=0.01)  # Beta(1, 1)
    assert plan.weight[:, 0].var() == pytest.approx(1 / 12, abs=0.01)
    parts = plan.weight[:, 1:] / plan.weight[:, 1:].sum(1, keepdim=True)
    assert parts.mean(0) == pytest.approx([1 / 3] * 3, abs=0.01)  # Dirichlet(1)
    assert parts.var(0) == pytest.approx([1 / 18] * 3, abs=0.005)
    lengths = (plan.operation >= 0).sum(-1).flatten().bincount() / plan.operation[..., 0].numel()
    assert lengths.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.01)
    drawn = plan.operation[plan.operation >= 0]
    shares = drawn.bincount() / len(drawn)
    assert shares.tolist() == pytest.approx([1 / 9] * 9, abs=0.005)
    values = {name: plan.value[plan.operation == n] for n, name in enumerate(POOL)}
    # The reference at severity 3: what its integer scales can give, and no more.
    assert values["posterize"].unique().tolist() == [3, 4]
    assert values["rotate"].unique().tolist() == list(range(-8, 9))
    assert values["solarize"].unique().tolist() == list(range(180, 255))
    assert values["translate_x"].unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert values["shear_y"].abs().max() == pytest.approx(0.09, abs=1e-3)
    assert values["shear_y"].mean() == pytest.approx(0, abs=1e-3)


def test_image_alone_where_its_weight_is_one() -> None:
    images = pictures()
    plan = draw_plan(torch.arange(24), seed=1, pixels=32, **OPTIONS)
    weight = torch.tensor([1.0, 0, 0, 0]).expand(24, -1)
    assert torch.equal(mix_chains(images, plan._replace(weight=weight)), images.float())
    weight = torch.tensor([0.0, 0, 1, 0]).expand(24, -1)
    second = mix_chains(images, plan._replace(weight=weight))
    alone = plan._replace(
        operation=plan.operation[:, 1:2], value=plan.value[:, 1:2], weight=weight[:, [0, 2]]
    )
    assert torch.equal(second, mix_chains(images, alone))


def test_view_depends_on_seed_and_sample_alone() -> None:
    images, index = pictures(n=30), torch.arange(30)
    whole = augmix(images, index, seed=1)
    assert whole.dtype == torch.float32 and whole.min() >= 0 and whole.max() <= 255.001
    torch.testing.assert_close(augmix(images[[7, 3]], index[[7, 3]], seed=1), whole[[7, 3]])
    assert not torch.equal(augmix(images, index, seed=2), whole)
    fixed = draw_plan(index, seed=1, pixels=32, width=2, depth=5, severity=3)
    assert fixed.operation.shape == (30, 2, 5) and (fixed.operation >= 0).all()
