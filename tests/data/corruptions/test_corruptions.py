"""Every corruption against image-by-image references in float64, with the same random numbers.

The constants below are those of make_cifar_c (https://github.com/hendrycks/robustness).
"""

from __future__ import annotations

import colorsys
import io
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from data.corruptions.fields import plasma
from data.corruptions.recipes import ALL_CORRUPTIONS, CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from data.randomness import derive_seed

Reference = Callable[[np.ndarray, int, torch.Generator], np.ndarray]
SEED = 3


def photographs(n: int = 4) -> np.ndarray:
    """Pieces of photographs, (n, 32, 32, 3) uint8."""
    image = load_sample_image("flower.jpg")[::4, ::4]
    places = np.random.default_rng(0).integers(
        0, (image.shape[0] - 32, image.shape[1] - 32), (n, 2)
    )
    return np.stack([image[y : y + 32, x : x + 32] for y, x in places])


def to_batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def normal(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(shape, generator=generator).double().numpy()


def uniform(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.rand(shape, generator=generator).double().numpy()


def hwc(x: np.ndarray) -> np.ndarray:
    return x.transpose(1, 2, 0)


def gaussian_noise(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    return x + hwc(normal(g, 3, 32, 32)) * [0.04, 0.06, 0.08, 0.09, 0.10][s]


def shot_noise(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    c = [500, 250, 100, 75, 50][s]
    rate = torch.from_numpy(x.transpose(2, 0, 1)).float() * c
    return hwc(torch.poisson(rate, g).double().numpy()) / c


def impulse_noise(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][s]
    u, out = hwc(uniform(g, 3, 32, 32)), x.copy()
    out[u < amount] = 0
    out[u < amount / 2] = 1
    return out


def speckle_noise(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    return x + x * hwc(normal(g, 3, 32, 32)) * [0.06, 0.1, 0.12, 0.16, 0.2][s]


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(x, (sigma, sigma) + (0,) * (x.ndim - 2), mode="nearest")


def gaussian_blur(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    return blurred(x, [0.4, 0.6, 0.7, 0.8, 1][s])


def defocus_blur(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    radius, alias = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][s]
    kernel = np.zeros((17, 17))
    for y in range(-8, 9):
        for z in range(-8, 9):
            kernel[y + 8, z + 8] = y * y + z * z <= radius**2
    kernel /= kernel.sum()
    tap = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * alias**2))
    tap /= tap.sum()
    kernel = ndimage.convolve(kernel, np.outer(tap, tap), mode="constant")
    return np.stack([ndimage.correlate(x[..., c], kernel, mode="mirror") for c in range(3)], -1)


def glass_blur(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    sigma, reach, rounds = [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)][s]
    x = np.floor(blurred(x, sigma) * 255 + 1e-6) / 255
    offset = torch.randint(2 * reach, (rounds, 32, 32, 2), generator=g).numpy() - reach
    for turn in range(rounds):
        for h in range(32 - reach, reach, -1):
            for w in range(32 - reach, reach, -1):
                dy, dx = offset[turn, h - 1, w - 1]
                x[h, w] = x[h + dy, w + dx]
    return blurred(x, sigma)


def motion(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    out = np.zeros_like(x)
    size = np.arange(len(x))
    for i, weight in enumerate(weights):
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows, columns = (size + dy).clip(0, 31), (size + dx).clip(0, 31)
        out += weight / sum(weights) * x[np.ix_(rows, columns)]
    return out


def motion_blur(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][s]
    return motion(x, radius, sigma, -45 + 90 * torch.rand((), generator=g).item())


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    crop = math.ceil(32 / factor)
    top = (32 - crop) // 2
    piece = x[top : top + crop, top : top + crop]
    large = ndimage.zoom(piece, (factor, factor) + (1,) * (x.ndim - 2), order=1)
    trim = (len(large) - 32) // 2
    return large[trim : trim + 32, trim : trim + 32]


def zoom_blur(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][s], 0.01)
    return (x + sum(zoomed(x, float(f)) for f in factors)) / (len(factors) + 1)


def snow(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    loc, scale, factor, threshold, radius, sigma, share = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][s]
    flakes = zoomed(normal(g, 1, 32, 32)[0] * scale + loc, factor)
    flakes[flakes < threshold] = 0
    flakes = np.floor(flakes.clip(0, 1) * 255 + 1e-6) / 255
    flakes = motion(flakes, radius, sigma, -135 + 90 * torch.rand((), generator=g).item())
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    out = share * x + (1 - share) * np.maximum(x, grey * 1.5 + 0.5)
    return out + flakes[..., None] + np.rot90(flakes, 2)[..., None]


def diamond_square(size: int, decay: float, numbers: np.ndarray) -> np.ndarray:
    """Point by point; numbers are taken scale by scale: centres, then both kinds of edges."""
    map_, wibble, step, used = np.zeros((size, size)), 100.0, size, iter(numbers)
    while step >= 2:
        half = step // 2

        def fill(y0: int, x0: int, around: list[tuple[int, int]], step: int, wibble: float) -> None:
            for y in range(y0, size, step):
                for x in range(x0, size, step):
                    total = sum(map_[(y + dy) % size, (x + dx) % size] for dy, dx in around)
                    map_[y, x] = total / 4 + wibble * wibble * next(used)

        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        corners = [(a, b) for a in (-half, half) for b in (-half, half)]
        fill(half, half, corners, step, wibble)
        fill(0, half, cross, step, wibble)
        fill(half, 0, cross, step, wibble)
        step, wibble = half, wibble / decay
    map_ -= map_.min()
    return map_ / map_.max()


def fog(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    amount, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][s]
    numbers = 2 * uniform(g, 32 * 32) - 1
    out = x + amount * diamond_square(32, decay, numbers)[..., None]
    return out * x.max() / (x.max() + amount)


def by_pixel(x: np.ndarray, change: Callable[..., tuple[float, float, float]]) -> np.ndarray:
    def one(rgb: np.ndarray) -> tuple[float, float, float]:
        return colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*rgb)))

    return np.apply_along_axis(one, 2, x)


def brightness(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    c = [0.05, 0.1, 0.15, 0.2, 0.3][s]
    return by_pixel(x, lambda h, sat, v: (h, sat, min(v + c, 1)))


def saturate(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    a, b = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][s]
    return by_pixel(x, lambda h, sat, v: (h, min(max(sat * a + b, 0), 1), v))


def contrast(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    mean = x.mean((0, 1))
    return (x - mean) * [0.75, 0.5, 0.4, 0.3, 0.15][s] + mean


def elastic_transform(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    alpha, sigma, shift = (
        32
        * np.array(
            [
                (0, 0, 0.08),
                (0.05, 0.2, 0.07),
                (0.08, 0.06, 0.06),
                (0.1, 0.04, 0.05),
                (0.1, 0.03, 0.03),
            ]
        )[s]
    )
    corners = np.array([[26, 26], [26, 6], [6, 6]], dtype=float)
    moved = corners + shift * (2 * uniform(g, 3, 2) - 1)
    # The map from moved to original corners, in homogeneous coordinates (x, y, 1).
    columns = [np.vstack([points.T, np.ones(3)]) for points in (moved, corners)]
    back = columns[1] @ np.linalg.inv(columns[0])
    rows, cols = np.mgrid[:32, :32].astype(float)
    source = back @ np.stack([cols.ravel(), rows.ravel(), np.ones(1024)])
    at = source[1].reshape(32, 32), source[0].reshape(32, 32)
    x = np.stack(
        [ndimage.map_coordinates(x[..., c], at, order=1, mode="mirror") for c in range(3)], -1
    )
    field = 2 * uniform(g, 2, 32, 32) - 1
    dx, dy = (ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) * alpha for f in field)
    at = rows + dy, cols + dx
    return np.stack(
        [ndimage.map_coordinates(x[..., c], at, order=1, mode="reflect") for c in range(3)], -1
    )


def pil(x: np.ndarray) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


def pixelate(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    c = [0.95, 0.9, 0.85, 0.75, 0.65][s]
    small = pil(x).resize((int(32 * c), int(32 * c)), Image.Resampling.BOX)
    return np.asarray(small.resize((32, 32), Image.Resampling.BOX)) / 255


def jpeg_compression(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    pil(x).save(buffer, "JPEG", quality=[80, 65, 58, 50, 40][s])
    return np.asarray(Image.open(buffer)) / 255


def mud(x: np.ndarray, s: int, g: torch.Generator) -> np.ndarray:
    sigma, threshold = {3: (0.7, 0.69), 4: (0.5, 0.68)}[s]
    liquid = blurred(normal(g, 1, 32, 32)[0] * 0.1 + 0.65, sigma)
    mask = blurred((liquid > threshold).astype(float), 0.6)
    mask[mask < 0.8] = 0
    return x * (1 - mask[..., None]) + mask[..., None] * np.array([63, 42, 20]) / 255


REFERENCES: dict[str, Reference] = {
    f.__name__: f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur,
        glass_blur, motion_blur, zoom_blur, snow, fog, brightness, saturate, contrast,
        elastic_transform, pixelate, jpeg_compression,
    )
}  # fmt: skip
CASES = [(name, severity) for name in REFERENCES for severity in range(1, 6)]
CASES += [("spatter", 4), ("spatter", 5)]


@pytest.mark.parametrize(("name", "severity"), CASES)
def test_equals_the_reference_image_by_image(name: str, severity: int) -> None:
    images = photographs(2)
    made = corrupt(to_batch(images), name, severity, seed=SEED, first=7).permute(0, 2, 3, 1).numpy()
    reference = mud if name == "spatter" else REFERENCES[name]
    for number, (image, result) in enumerate(zip(images, made, strict=True), start=7):
        generator = torch.Generator().manual_seed(derive_seed(SEED, name, severity, number))
        expected = reference(image / 255, severity - 1, generator)
        difference = np.abs(result - np.floor(expected.clip(0, 1) * 255 + 1e-3))
        # Truncation may fall the other way; a threshold may, on a pixel or two.
        assert np.mean(difference <= 1) > 0.995 and difference.mean() < 0.1, difference.mean()


def test_plasma_equals_point_by_point() -> None:
    numbers = 2 * torch.rand(2, 16 * 16, dtype=torch.float64) - 1
    maps = plasma(16, 2.0, numbers)
    for map_, own in zip(maps, numbers, strict=True):
        np.testing.assert_allclose(map_, diamond_square(16, 2.0, own.numpy()), atol=1e-9)


def test_frost_is_a_piece_of_a_texture(root: object) -> None:
    folder = root / "data" / "corruptions" / "frost"  # type: ignore[operator]
    textures = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))]
    black = torch.zeros(60, 3, 32, 32, dtype=torch.uint8)
    for severity, add in ((1, 0.2), (5, 0.45)):
        used = set()
        for made in corrupt(black, "frost", severity).permute(0, 2, 3, 1).numpy():
            found = [i for i, t in enumerate(textures) if contains(t * add, made)]
            assert found
            used.update(found)
        assert used == set(range(6))
    white = torch.full_like(black, 255)
    assert corrupt(white, "frost", 5).min() >= int(0.75 * 255)


def test_frost_on_large_images_is_a_piece_of_an_enlarged_texture(root: object) -> None:
    folder = root / "data" / "corruptions" / "frost"  # type: ignore[operator]
    pictures = [Image.open(p).convert("RGB") for p in sorted(folder.glob("*.png"))]
    large = [p.resize((4 * p.width, 4 * p.height), Image.Resampling.BILINEAR) for p in pictures]
    textures = [np.asarray(picture)[..., 0].astype(np.float32) * 0.45 for picture in large]
    black = torch.zeros(4, 3, 128, 128, dtype=torch.uint8)
    for made in corrupt(black, "frost", 5)[:, 0].numpy().astype(np.float32):
        distances = []
        for texture in textures:
            rows = np.lib.stride_tricks.sliding_window_view(texture[:-127], 128, axis=1)
            fit = np.abs(rows - made[0]).mean(2)
            top, left = np.unravel_index(fit.argmin(), fit.shape)
            piece = texture[top : top + 128, left : left + 128]
            distances.append(np.abs(piece - made).mean())
        assert min(distances) < 1  # of 255 levels: truncation, and PIL's rounding
        assert np.median(distances) > 5


def contains(texture: np.ndarray, piece: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(np.floor(texture[..., 0] + 1e-3), (32, 32))
    first = piece[..., 0]
    close = np.abs(windows[:, :, ::8, ::8] - first[::8, ::8]).max((2, 3)) <= 1
    return any(
        np.abs(np.floor(texture[y : y + 32, x : x + 32] + 1e-3) - piece).max() <= 1
        for y, x in np.argwhere(close)
    )


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_only_brightens_towards_its_colour(severity: int) -> None:
    images = to_batch(photographs(6))
    made = corrupt(images, "spatter", severity)
    assert (made.int() >= images.int() - 1).all()
    changed = (made != images).any(1).float().mean()
    assert 0.02 < changed < 0.9
    # Never more than the strength, 0.5, of the colour (175, 238, 238).
    most = torch.tensor([175.0, 238, 238]).view(1, 3, 1, 1) * 0.5 + 1
    assert ((made.int() - images.int()) <= most).all()


@pytest.mark.parametrize("name", ALL_CORRUPTIONS)
def test_an_image_depends_on_itself_alone(name: str) -> None:
    images = to_batch(photographs(5))
    before = images.clone()
    for severity in (1, 5):
        whole = corrupt(images, name, severity, seed=1, first=10)
        assert whole.dtype == torch.uint8 and whole.shape == images.shape
        for i in (0, 3):
            alone = corrupt(images[i : i + 1], name, severity, seed=1, first=10 + i)
            assert (alone[0].int() - whole[i].int()).abs().max() <= 1
        assert torch.equal(whole, corrupt(images, name, severity, seed=1, first=10))
    assert torch.equal(images, before)


# The published levels of these differ in kind, not in the mean distance alone.
NOT_MONOTONE = ("saturate", "spatter", "elastic_transform")


@pytest.mark.parametrize("name", [name for name in ALL_CORRUPTIONS if name not in NOT_MONOTONE])
def test_severity_moves_further_from_the_clean_image(name: str) -> None:
    images = to_batch(photographs(24))
    moved = [(corrupt(images, name, s).float() - images).abs().mean().item() for s in range(1, 6)]
    assert moved[0] > 0.2 and moved[4] > 1.2 * moved[0]
    assert all(b > 0.95 * a for a, b in itertools.pairwise(moved)), moved


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "frost", "fog"])
def test_another_seed_draws_anew(name: str) -> None:
    images = to_batch(photographs(2))
    assert not torch.equal(corrupt(images, name, 3, seed=0), corrupt(images, name, 3, seed=1))


def test_odd_and_oblong_images_keep_their_shape() -> None:
    images = torch.randint(0, 256, (2, 3, 33, 48), dtype=torch.uint8)
    for name in ALL_CORRUPTIONS:
        assert corrupt(images, name, 3).shape == images.shape, name


def test_names() -> None:
    assert len(CORRUPTIONS) == 15 and len(EXTRA_CORRUPTIONS) == 4
    assert set(EXTRA_CORRUPTIONS) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


@pytest.mark.parametrize(
    ("images", "name", "severity", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "rain", 1, "gaussian_noise.*got 'rain'"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "fog", 0, "from 1 to 5, but got 0"),
        (torch.zeros(1, 3, 32, 32), "fog", 1, "uint8.*float32"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), "fog", 1, r"\(B, 3, H, W\).*\(1, 1"),
        (torch.zeros(1, 3, 8, 32, dtype=torch.uint8), "fog", 1, "at least 16x16"),
    ],
)
def test_bad_arguments(images: torch.Tensor, name: str, severity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, severity)
