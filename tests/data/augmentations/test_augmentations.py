from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from data.augmentations.augmix import augmix
from data.augmentations.autoaugment import _NAMES, _parameter, autoaugment
from data.augmentations.randaugment import fixmatch_strong
from data.augmentations.steps import (
    Augmentation,
    AugMix,
    AutoAugment,
    CutMix,
    Cutout,
    Mixup,
    check_order,
)
from data.classification.digits import Digits
from data.images import normalise
from data.randomness import derive_seed, sample_uniform
from tests.data.augmentations.test_tensor_ops import pictures

CLASSES = 7


def batch_of(n: int = 24, number: int = 5) -> dict[str, Any]:
    return {
        "image": pictures(n=n),
        "label": torch.arange(n) % CLASSES,
        "index": torch.arange(n) * 3,
        "epoch": 2,
        "number": number,
    }


def applied(step: Augmentation, number: int = 5, seed: int = 1) -> dict[str, Any]:
    batch = batch_of(number=number)
    step.apply(batch, seed=seed, classes=CLASSES)
    return batch


def test_mixup_is_the_blend_of_neighbours_and_of_their_losses() -> None:
    before, after = batch_of(), applied(Mixup())
    share = after["label"][0, 0].item()  # the first label is 0, its neighbour's another
    assert 0.01 < share < 0.99
    images, logits = before["image"].float(), torch.randn(24, CLASSES)
    expected = share * images + (1 - share) * images.roll(1, 0)
    torch.testing.assert_close(after["image"], expected, rtol=0, atol=1e-3)
    own = F.cross_entropy(logits, before["label"])
    other = F.cross_entropy(logits, before["label"].roll(1))
    loss = F.cross_entropy(logits, after["label"])
    torch.testing.assert_close(loss, share * own + (1 - share) * other)


def test_cutmix_puts_a_rectangle_of_the_neighbour_and_shares_the_label_by_area() -> None:
    before, after = batch_of(), applied(CutMix(p=1.0))
    noise = before["image"][1:8].float()  # where neighbours differ at nearly every pixel
    foreign = (after["image"][1:8] != noise).any(1).any(0)
    rows, columns = foreign.any(1), foreign.any(0)
    assert torch.equal(foreign, rows[:, None] & columns)
    assert rows.sum() == rows.nonzero().max() - rows.nonzero().min() + 1
    neighbour = before["image"].float().roll(1, 0)
    assert torch.equal(after["image"][:, :, foreign], neighbour[:, :, foreign])
    own = before["image"].float()
    assert torch.equal(after["image"][:, :, ~foreign], own[:, :, ~foreign])
    area = foreign.float().mean()
    one_hot = F.one_hot(before["label"], CLASSES).float()
    torch.testing.assert_close(after["label"], (1 - area) * one_hot + area * one_hot.roll(1, 0))


def test_mixing_is_a_function_of_seed_and_batch_number_alone() -> None:
    state = torch.get_rng_state()
    first = applied(Mixup())
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = applied(Mixup())
    assert torch.equal(first["image"], again["image"])
    shares = torch.tensor([applied(Mixup(), number)["label"][0, 0] for number in range(300)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.07)
    assert shares.var().item() == pytest.approx(1 / 12, abs=0.02)  # Beta(1, 1)
    assert len(shares.unique()) > 290
    plain = [applied(CutMix(), number)["label"][:, 0].eq(1).sum() == 4 for number in range(200)]
    assert 70 < sum(plain) < 140  # half of the batches, and those whose rectangle is empty
    unmixed = applied(CutMix(p=0.0))
    assert torch.equal(unmixed["image"], batch_of()["image"].float())
    assert torch.equal(unmixed["label"], F.one_hot(batch_of()["label"], CLASSES).float())


def test_cutout_is_one_square_of_half_the_width() -> None:
    before, after = batch_of(240), batch_of(240)
    Cutout().apply(after, seed=1, classes=CLASSES)
    changed = (before["image"] != after["image"]).any(1)
    assert (after["image"].permute(0, 2, 3, 1)[changed] == 127).all()
    sizes = changed[:80].flatten(1).sum(1)  # noise, which is hardly ever grey already
    assert sizes.max() == 16 * 16 and sizes.min() >= 8 * 8 - 2
    small = applied(Cutout(4))
    assert (batch_of()["image"] != small["image"]).any(1).flatten(1).sum(1).max() <= 16


@pytest.mark.parametrize("step", [Cutout(), AutoAugment(), AugMix()])
def test_draws_for_a_sample_ignore_its_batch(step: Augmentation) -> None:
    whole, part = applied(step), batch_of(number=77)
    for key in ("image", "label", "index"):
        part[key] = part[key][[9, 2]]
    step.apply(part, seed=1, classes=CLASSES)
    assert torch.equal(part["image"], whole["image"][[9, 2]])
    for view, reference in zip(part.get("views", []), whole.get("views", []), strict=True):
        torch.testing.assert_close(view, reference[[9, 2]])


def test_augmix_leaves_the_image_and_adds_two_different_views() -> None:
    before, after = batch_of(), applied(AugMix(severity=5, width=2))
    assert torch.equal(after["image"], before["image"])
    first, second = after["views"]
    assert (first - second).abs().mean() > 1
    seed = derive_seed(derive_seed(1, "AugMix", 2), 1)
    reference = augmix(before["image"], before["index"], seed=seed, severity=5, width=2)
    assert torch.equal(second, reference)


def in_torchvision(image: Tensor, name: str, magnitude: float) -> Tensor:
    step = v2.AutoAugment()
    # torchvision shifts the image where Pillow shifts the place that it reads from.
    magnitude = -magnitude if name.startswith("Translate") else magnitude
    return step._apply_image_or_video_transform(image, name, magnitude, step.interpolation, {})


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
def test_autoaugment_equals_torchvision_image_by_image(policy: Any) -> None:
    images, index = pictures(n=150)[50:], torch.arange(100)
    ours = autoaugment(images, index, seed=4, policy=policy)
    reference = v2.AutoAugment(v2.AutoAugmentPolicy(policy))
    uniform = sample_uniform(4, index, 5).tolist()
    errors = []
    for image, result, (which, *draws) in zip(images, ours, uniform, strict=True):
        expected = image
        pairs = reference._policies[int(which * 25)]
        for (name, probability, level), coin, side in zip(
            pairs, draws[::2], draws[1::2], strict=True
        ):
            if coin < probability:
                values, signed = reference._AUGMENTATION_SPACE[name]
                table = values(10, 32, 32)
                magnitude = 0.0 if table is None else float(table[level])
                sign = -1 if signed and side < 0.5 else 1
                expected = in_torchvision(expected, name, sign * magnitude)
        errors.append((result.int() - expected.int()).abs().float().mean())
    # Levels of 255. torchvision rounds otherwise, which equalisation can enlarge.
    found = torch.stack(errors)
    assert found.median() < 0.3 and (found < 3).float().mean() > 0.9 and found.mean() < 1


def test_autoaugment_has_torchvision_s_strengths() -> None:
    for foreign, name in _NAMES.items():
        values, signed = v2.AutoAugment._AUGMENTATION_SPACE[foreign]
        table = values(10, 20, 32)
        for level in range(10 if table is not None else 0):
            centre, spread = _parameter(name, level, 20, 32)
            value = float(table[level])
            if name == "solarize":
                value *= 255
            elif name.startswith("translate"):
                value = int(value)
            elif signed and centre:
                value += 1
            assert centre + spread == pytest.approx(value, abs=1e-4), (name, level)
            assert signed == bool(spread) or level == 0 or name.startswith("translate")


def module(augment: Sequence[Augmentation]) -> Digits:
    return Digits(augment=augment, seed=3)


def test_data_module_augments_training_batches_alone() -> None:
    def passed(augment: Sequence[Augmentation], **changes: Any) -> dict[str, Any]:
        batch = {**batch_of(), **changes}
        return module(augment).on_after_batch_transfer(batch, 0)

    plain, mixed = passed([]), passed([Cutout(), AugMix()])
    assert mixed["image"].min() >= -1 and mixed["image"].max() <= 1
    assert not torch.equal(plain["image"], mixed["image"])
    assert len(mixed["views"]) == 2
    for view in mixed["views"]:
        assert view.dtype == torch.float32 and view.min() >= -1.0001 and view.max() <= 1.0001
        assert (view - mixed["image"]).abs().mean() < 0.5
    assert not torch.equal(passed([Cutout()])["image"], passed([Cutout()], epoch=3)["image"])
    assert passed([Mixup()])["label"].shape == (24, 10)
    evaluation = {"image": pictures(), "label": torch.zeros(24), "group": torch.zeros(24)}
    after = module([Cutout(), Mixup()]).on_after_batch_transfer(dict(evaluation), 0)
    assert torch.equal(after["image"], (evaluation["image"].float() / 255 - 0.5) / 0.5)
    assert torch.equal(after["label"], evaluation["label"])


def test_nothing_waits_for_the_device() -> None:
    """Tensors on "meta" have no values: whatever reads one on the host fails."""
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8, device="meta")
    index = torch.zeros(8, dtype=torch.long, device="meta")
    for step in (Cutout(), AutoAugment(), AugMix(), Mixup(), CutMix(p=1.0)):
        batch = {"image": images, "label": index, "index": index, "epoch": 0, "number": 4}
        step.apply(batch, seed=1, classes=CLASSES)
        normalise(batch["image"], (0.5,) * 3, (0.5,) * 3)
    fixmatch_strong(images, index, seed=1)
    with pytest.raises(RuntimeError, match="meta"):
        index.max().item()


def test_steps_that_contradict_one_another_are_refused() -> None:
    check_order([AutoAugment(), Cutout(), AugMix()])
    for steps in ([AugMix(), Mixup()], [Mixup(), CutMix()], [AugMix(), Cutout()]):
        with pytest.raises(ValueError, match=f"end with {type(steps[0]).__name__}.*exclude"):
            check_order(steps)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Cutout, {"size": 1}, "`size`"),
        (AutoAugment, {"policy": "coco"}, "cifar10"),
        (AugMix, {"severity": 11}, "`severity`"),
        (AugMix, {"depth": 0}, "`depth`"),
        (Mixup, {"alpha": 0}, "`alpha`"),
        (CutMix, {"p": 1.5}, "`p`"),
    ],
)
def test_options_out_of_range(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
