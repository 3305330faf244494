from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from data.randomness import generator_for
from data.segmentation.transforms import JointTransform

FILL = (10, 20, 30)


def smooth_pair(height: int = 120, width: int = 200) -> tuple[Tensor, Tensor]:
    """An image that changes slowly, and labels in large fields."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)]
    return torch.stack(planes).to(torch.uint8), ((x // 25 + y // 25) % 19).to(torch.uint8)


def plainly(
    image: Tensor, mask: Tensor, scaled: tuple[int, int], start: tuple[int, int], angle: float
) -> tuple[Tensor, Tensor]:
    """The recipe step by step on whole images: resize, rotate, pad, crop."""
    size = list(scaled)
    image = F.resize(tv_tensors.Image(image), size, antialias=True)
    mask = F.resize_image(mask[None], size, InterpolationMode.NEAREST_EXACT)[0]
    image = F.rotate(image, angle, InterpolationMode.BILINEAR, fill=list(FILL))
    mask = F.rotate(tv_tensors.Mask(mask), angle, fill=255)
    image, mask = F.pad(image, [64] * 4, fill=list(FILL)), F.pad(mask, [64] * 4, fill=255)
    box = [start[0] + 64, start[1] + 64, 64, 64]
    return F.crop(image, *box), F.crop(mask, *box)


@pytest.mark.parametrize(
    ("scaled", "start", "angle"),
    [
        ((120, 200), (10, 20), 0.0),
        ((180, 300), (50, 100), 0.0),
        ((120, 200), (30, 60), 7.0),
        ((180, 300), (60, 120), -9.0),
        ((240, 400), (0, 0), 10.0),  # a corner, with the fill
        ((50, 80), (-8, 3), 0.0),  # smaller than the crop
    ],
)
def test_a_cut_equals_the_recipe_on_the_whole_image(
    scaled: tuple[int, int], start: tuple[int, int], angle: float
) -> None:
    image, mask = smooth_pair()
    found = JointTransform(64, fill=FILL).cut(
        tv_tensors.Image(image), tv_tensors.Mask(mask), scaled=scaled, start=start, angle=angle
    )
    expected = plainly(image, mask, scaled, start, angle)
    assert found[0].shape == (3, 64, 64) and found[1].shape == (64, 64)
    assert found[0].dtype == found[1].dtype == torch.uint8
    difference = (found[0].float() - expected[0].float()).abs()
    # Most of it at the image's edge, where colours mix with the fill in another order.
    assert difference.mean() < 1.5 and difference.median() <= 1
    assert (found[1] == expected[1]).float().mean() > 0.97
    if angle == 0 and scaled == (120, 200):
        assert difference.max() == 0 and torch.equal(found[1], expected[1])


def test_image_and_labels_move_together() -> None:
    """Where labels are coded in the image, they can be read off it after any transform."""
    _, mask = smooth_pair(90, 130)
    image = (mask * 12).expand(3, -1, -1).contiguous()
    transform = JointTransform(64, blur=False, fill=FILL)
    for i in range(20):
        out, label = transform(image, mask, generator_for(0, i))
        inside = label != 255
        # Away from the fields' borders, where colours are mixed.
        close = (out[0].float() - 12 * label.float()).abs() < 3
        assert close[inside].float().mean() > 0.8
        near_inside = torch.nn.functional.max_pool2d(inside.float()[None], 5, 1, 2)[0] > 0
        colour = torch.tensor(FILL, dtype=torch.uint8)[:, None]
        assert ((out[:, ~near_inside].float() - colour).abs() <= 1).all()


def test_the_generator_alone_decides() -> None:
    image, mask = smooth_pair()
    transform = JointTransform(48, fill=FILL)
    torch.manual_seed(0)
    one = transform(image, mask, generator_for(3, 4))
    state = torch.get_rng_state()
    two = transform(image, mask, generator_for(3, 4))
    other = transform(image, mask, generator_for(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    before = image.clone()
    transform(image, mask, generator_for(1, 1))
    assert torch.equal(image, before)


def test_draws_cover_their_ranges() -> None:
    """Scale and place are uniform: the mean brightness of a ramp says where the crops were."""
    image, mask = smooth_pair()
    transform = JointTransform(32, scale=(1.0, 1.0), rotate=0, blur=False, fill=FILL)
    rows = torch.tensor(
        [transform(image, mask, generator_for(i))[0][0].float().mean() for i in range(300)]
    )
    # Crops start at rows 0 to 88, so their middles are uniform from 15.5 to 103.5.
    middles = rows * 120 / 255
    assert abs(middles.mean() - 59.5) < 5 and middles.min() < 20 and middles.max() > 99
    turned = JointTransform(32, rotate=180.0)
    for i in range(10):
        assert turned(image, mask, generator_for(i))[0].shape == (3, 32, 32)


def test_flip_mirrors_both() -> None:
    image, mask = smooth_pair(32, 32)
    plain = JointTransform(32, scale=(1.0, 1.0), rotate=0, blur=False, flip=False)
    flipped = JointTransform(32, scale=(1.0, 1.0), rotate=0, blur=False, flip=True)
    seen = set()
    for i in range(12):
        a, b = plain(image, mask, generator_for(i)), flipped(image, mask, generator_for(i))
        mirrored = torch.equal(a[0].flip(-1), b[0]) and torch.equal(a[1].flip(-1), b[1])
        assert mirrored or all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        seen.add(mirrored)
    assert seen == {False, True}


def test_blur_leaves_labels_alone() -> None:
    image, mask = smooth_pair(32, 32)
    image = torch.randint(0, 256, image.shape, dtype=torch.uint8)
    sharp = JointTransform(32, scale=(1.0, 1.0), rotate=0, blur=False, flip=False)
    soft = JointTransform(32, scale=(1.0, 1.0), rotate=0, blur=True, flip=False)
    seen = set()
    for i in range(12):
        a, b = sharp(image, mask, generator_for(i)), soft(image, mask, generator_for(i))
        assert torch.equal(a[1], b[1])
        if not torch.equal(a[0], b[0]):
            expected = F.gaussian_blur(tv_tensors.Image(a[0]), [5, 5], [1.1, 1.1])
            assert torch.equal(b[0], expected)
        seen.add(torch.equal(a[0], b[0]))
    assert seen == {False, True}
