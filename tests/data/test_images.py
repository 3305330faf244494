from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from data.augmentations.crops import Border, flip_and_shift, jitter_colours
from data.images import EvaluationSets, Group, fingerprint, normalise
from data.randomness import sample_uniform


@pytest.mark.parametrize("border", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
def test_flip_and_shift_equals_torchvision_sample_by_sample(flip: bool, border: Border) -> None:
    images = torch.randint(0, 256, (64, 3, 12, 10), dtype=torch.uint8)
    index = torch.randperm(1000)[:64]
    augmented = flip_and_shift(images, index, seed=9, padding=3, flip=flip, border=border)
    uniform = sample_uniform(9, index, 3)
    for image, result, (top, left, coin) in zip(images, augmented, uniform, strict=True):
        mode = "constant" if border == "zeros" else "reflect"
        padded = tv.pad(image.float(), [3, 3, 3, 3], padding_mode=mode).to(torch.uint8)
        expected = tv.crop(padded, int(top * 7), int(left * 7), 12, 10)
        if flip and coin < 0.5:
            # Flipping the columns read, inside the shifted window, is flipping the crop.
            expected = tv.horizontal_flip(expected)
        assert torch.equal(result, expected)


def test_augmentation_of_a_sample_ignores_its_batch_and_covers_all_shifts() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(3000, 3, 8, 8)
    whole = flip_and_shift(images, torch.arange(3000), seed=1, padding=2)
    part = flip_and_shift(images[:2], torch.tensor([77, 5]), seed=1, padding=2)
    assert torch.equal(part, whole[[77, 5]])
    assert len(torch.unique(whole[:, 0].flatten(1), dim=0)) == 5 * 5 * 2
    other_epoch = flip_and_shift(images, torch.arange(3000), seed=2, padding=2)
    assert not torch.equal(whole, other_epoch)


def test_jitter_equals_torchvision_sample_by_sample() -> None:
    images = torch.randint(0, 256, (40, 3, 9, 8), dtype=torch.uint8)
    index = torch.randperm(500)[:40]
    jittered = jitter_colours(images, index, seed=4, strength=0.8)
    factors = 0.2 + 1.6 * sample_uniform(4, index, 2)
    for image, result, (brightness, contrast) in zip(images, jittered, factors, strict=True):
        expected = tv.adjust_brightness(image, float(brightness))
        expected = tv.adjust_contrast(expected, float(contrast))
        # The last bit may round the other way.
        assert (result.int() - expected.int()).abs().max() <= 1
    assert jitter_colours(images, index, seed=4, strength=0.0) is images


def test_normalise() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    out = normalise(images, (0.5, 0.25, 0.0), (0.5, 0.5, 2.0))
    assert out[:, :, 0, 0].tolist() == [[-1.0, -0.5, 0.0], [1.0, 1.5, 0.5]]


def test_evaluation_sets_name_each_sample_s_condition() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (5, 7, 3)]
    labels = [rng.integers(0, 9, n) for n in (5, 7, 3)]
    groups = [Group("clean", 0), Group("fog", 1), Group("fog", 2)]
    sets = EvaluationSets(groups, arrays, labels)
    batch = sets[[4, 5, 11, 12, 14]]
    assert batch["group"].tolist() == [0, 1, 1, 2, 2]
    expected = np.stack([arrays[0][4], arrays[1][0], arrays[1][6], arrays[2][0], arrays[2][2]])
    assert np.array_equal(batch["image"].permute(0, 2, 3, 1).numpy(), expected)
    assert batch["label"].tolist() == [
        labels[0][4], labels[1][0], labels[1][6], labels[2][0], labels[2][2],
    ]  # fmt: skip
    assert len(sets) == 15


def test_fingerprint_sees_content_and_shape() -> None:
    array = np.arange(12, dtype=np.uint8)
    other = array.copy()
    other[5] += 1
    prints = {fingerprint(array), fingerprint(other), fingerprint(array.reshape(3, 4))}
    assert len(prints) == 3
    assert fingerprint(array) == fingerprint(array.copy())
