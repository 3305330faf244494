"""data.augmentations.operations against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.pil_operations import pil_affine, pil_cutout, pil_operation
from data.augmentations import operations as tensor_ops
from data.augmentations.geometry import Resampling, affine, cutout
from data.augmentations.operations import OPERATIONS, Operation, apply_operations

# Parameters over the whole range of AugMix, FixMatch and AutoAugment, and beyond at the ends.
VALUES = {
    "posterize": [1, 2, 3, 4, 5, 6, 7, 8],
    "solarize": [0, 1, 26, 128, 200, 255, 256],
    "rotate": [0, 1, -8, 15, -30, 77, 180, 100],
    "shear_x": [0.0, 0.09, -0.3, 0.17, 1.37],
    "shear_y": [0.0, 0.09, -0.3, 0.17, 1.37],
    "translate_x": [0, 1, -3, 9, 100],
    "translate_y": [0, 1, -3, 9, -100],
    "brightness": [0.0, 0.05, 0.5, 0.95, 1.0, 1.9],
    "color": [0.0, 0.05, 0.5, 0.95, 1.0, 1.9],
    "contrast": [0.0, 0.05, 0.5, 0.95, 1.0, 1.9],
    "sharpness": [0.0, 0.05, 0.5, 0.95, 1.0, 1.9],
}


def pictures(height: int = 32, width: int = 32, n: int = 24) -> Tensor:
    """uint8 (n, 3, H, W): smooth pictures, noise, few values, and one flat channel."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    images = (smooth.clamp(0, 1) * 200 + 30).to(torch.uint8)
    noise = torch.randint(0, 256, (n // 3, 3, height, width), generator=generator)
    images[: n // 3] = noise.to(torch.uint8)
    images[n // 3] = images[n // 3] // 64 * 64
    images[-1, 1] = 77
    images[-2] = torch.where(images[-2] > 120, 250, 3)
    return images


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def difference(ours: Tensor, reference: list[Image.Image]) -> Tensor:
    return (ours.int() - torch.stack([from_pil(image) for image in reference]).int()).abs()


@pytest.mark.parametrize("shape", [(32, 32), (20, 33)])
@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_equals_pillow(
    name: Operation, resampling: Resampling, shape: tuple[int, int]
) -> None:
    images, fill = pictures(*shape), 0 if resampling == "bilinear" else 127
    for value in VALUES.get(name, [0.0]):
        values = torch.full((len(images),), float(value))
        options = {"fill": fill, "resampling": resampling}
        ours = apply_operations(images, torch.zeros(len(images)), values, (name,), **options)
        wrong = difference(ours, [pil_operation(to_pil(i), name, value, **options) for i in images])
        # A last bit may be cut off differently, on one pixel of a hundred.
        assert wrong.max() <= 1 and wrong.float().mean() < 0.01, (name, value)
        if resampling == "nearest" and name not in tensor_ops._TONAL:
            assert wrong.max() == 0, (name, value)


def test_affine_equals_pillow_for_any_matrix() -> None:
    images = pictures(18, 25)
    matrix = torch.randn(len(images), 6) * torch.tensor([0.5, 0.5, 5, 0.5, 0.5, 5])
    matrix = matrix + torch.tensor([1.0, 0, 0, 0, 1, 0])
    for resampling in ("nearest", "bilinear"):
        ours = affine(images, matrix, fill=9, resampling=resampling)
        reference = [
            pil_affine(to_pil(image), tuple(m.tolist()), 9, resampling)
            for image, m in zip(images, matrix, strict=True)
        ]
        assert difference(ours, reference).float().mean() < 0.05


def test_cutout_equals_pillow() -> None:
    images = pictures(20, 33)
    row, column = torch.randint(20, (24,)), torch.randint(33, (24,))
    row[:2], column[:2] = torch.tensor([0, 19]), torch.tensor([0, 32])
    for size, fill in ((16, 127), (4, 0)):
        ours = cutout(images, row, column, size=size, fill=fill)
        reference = [
            pil_cutout(to_pil(image), int(r), int(c), size, fill)
            for image, r, c in zip(images, row, column, strict=True)
        ]
        assert difference(ours, reference).max() == 0


def mixed_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Every operation with every of its parameters, shuffled."""
    pairs = [(n, v) for n, name in enumerate(OPERATIONS) for v in VALUES.get(name, [0.0])]
    generator = torch.Generator().manual_seed(0)
    pairs = [pairs[i] for i in torch.randperm(len(pairs), generator=generator)]
    operation = torch.tensor([n for n, _ in pairs])
    value = torch.tensor([float(v) for _, v in pairs])
    return pictures(n=len(pairs)), operation, value


def test_each_image_has_its_own_operation_whatever_the_batch() -> None:
    images, operation, value = mixed_batch()
    original = images.clone()
    together = apply_operations(images, operation, value, OPERATIONS)
    assert torch.equal(images, original)
    for i in range(len(images)):
        alone = apply_operations(
            images[i : i + 1], operation[i : i + 1], value[i : i + 1], OPERATIONS
        )
        assert torch.equal(alone[0], together[i])
    none = apply_operations(images, operation + 99, value, OPERATIONS)
    assert torch.equal(none, images)


def test_path_of_other_devices_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, operation, value = mixed_batch()
    expected = apply_operations(images, operation, value, OPERATIONS)
    monkeypatch.setattr(tensor_ops, "_by_group", tensor_ops._by_choice)
    assert torch.equal(apply_operations(images, operation, value, OPERATIONS), expected)


def test_wrong_input_is_refused() -> None:
    images, zero = pictures(n=3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"uint8 \(B, 3, H, W\), but got torch.float32"):
        apply_operations(images.float(), zero, zero, OPERATIONS)
    with pytest.raises(ValueError, match="blur"):
        apply_operations(images, zero, zero, ("blur",))  # type: ignore[arg-type]
