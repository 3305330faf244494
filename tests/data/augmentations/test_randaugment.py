from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.pil_operations import fixmatch_value, pil_cutout, pil_operation
from data.augmentations.randaugment import POOL, fixmatch_strong, fixmatch_weak
from data.randomness import derive_seed, sample_uniform
from tests.data.augmentations.test_tensor_ops import from_pil, pictures, to_pil


@pytest.mark.parametrize("m", [10, 4])
def test_strong_view_equals_pillow_image_by_image(m: float) -> None:
    images = pictures(n=60)
    index = torch.randperm(10_000)[:60]
    strong = fixmatch_strong(images, index, seed=5, m=m)
    shifted = fixmatch_weak(images, index, seed=derive_seed(5, "shift"))
    uniform = sample_uniform(derive_seed(5, "strong"), index, 8).tolist()
    errors = []
    for image, result, (row, column, *draws) in zip(shifted, strong, uniform, strict=True):
        picture = to_pil(image)
        for drawn, strength, side in (draws[:3], draws[3:]):
            name = list(POOL)[int(drawn * 14)]
            value = fixmatch_value(name, strength * m / 10, -1 if side < 0.5 else 1)
            picture = pil_operation(picture, name, value, fill=127, resampling="nearest")
        picture = pil_cutout(picture, int(row * 32), int(column * 32), 16, 127)
        errors.append((from_pil(picture).int() - result.int()).abs().float().mean())
    # Rotation takes its angle in another precision, so that single pixels may be neighbours.
    assert torch.stack(errors).median() < 0.01 and max(errors) < 1


def recovered(value: Tensor) -> tuple[float, float]:
    return value.min().item(), value.max().item()


def test_pool_and_ranges_are_those_of_the_paper() -> None:
    level = torch.linspace(0, 1 - 2**-24, 1001)
    ranges = {
        name: recovered(torch.cat([scale(level, torch.tensor(s), 100) for s in (-1.0, 1.0)]))
        for name, scale in POOL.items()
    }
    assert len(POOL) == 14
    for name in ("brightness", "color", "contrast", "sharpness"):
        assert ranges[name] == pytest.approx((0.05, 0.95))
    assert ranges["posterize"] == (4, 8) and ranges["solarize"] == (1, 256)
    assert ranges["rotate"] == pytest.approx((-30, 30))
    assert ranges["shear_x"] == ranges["shear_y"] == pytest.approx((-0.3, 0.3))
    assert ranges["translate_x"] == ranges["translate_y"] == (-29, 29)


def test_views_depend_on_seed_and_sample_alone() -> None:
    images, index = pictures(n=30), torch.arange(30)
    whole = fixmatch_strong(images, index, seed=1)
    assert torch.equal(fixmatch_strong(images[[7, 3]], index[[7, 3]], seed=1), whole[[7, 3]])
    assert not torch.equal(fixmatch_strong(images, index, seed=2), whole)
    small = pictures(16, 16, n=6)
    weak = fixmatch_weak(small, torch.arange(6), seed=1, flip=False)
    assert weak.shape == small.shape and not torch.equal(weak, small)


@pytest.mark.parametrize(("option", "message"), [({"n": 0}, "`n`"), ({"m": 11}, "`m`")])
def test_options_out_of_range(option: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fixmatch_strong(pictures(n=3), torch.arange(3), seed=0, **option)
