"""CrossNorm's arithmetic against loops in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnsn.functional import cross_norm, instance_stats, sample_beta, sample_box, sample_span


def numpy_stats(x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Channel by channel, unbiased, eps inside the root."""
    mean, std = np.zeros(x.shape[:2]), np.zeros(x.shape[:2])
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = x[b, c].ravel().astype(np.float64)
            mean[b, c] = values.sum() / values.size
            variance = ((values - mean[b, c]) ** 2).sum() / max(values.size - 1, 1)
            std[b, c] = np.sqrt(variance + eps)
    return mean, std


def numpy_cross_norm(content: np.ndarray, style: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    out = np.zeros(content.shape)
    (content_mean, content_std), (style_mean, style_std) = (
        numpy_stats(x, eps) for x in (content, style)
    )
    for b in range(content.shape[0]):
        for c in range(content.shape[1]):
            normal = (content[b, c] - content_mean[b, c]) / content_std[b, c]
            out[b, c] = normal * style_std[b, c] + style_mean[b, c]
    return out


@pytest.mark.parametrize(
    "shape", [(3, 4, 5, 6), (2, 3, 7), (1, 2, 2, 2), (2, 2, 1, 1), (2, 3, 4, 2, 3)]
)
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_stats_equal_numpy(shape: tuple[int, ...], eps: float) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    mean, std = instance_stats(x, eps)
    assert mean.shape == std.shape == (*shape[:2], *[1] * (len(shape) - 2))
    for ours, theirs in zip((mean, std), numpy_stats(x.numpy(), eps), strict=True):
        np.testing.assert_allclose(ours.flatten(1).numpy(), theirs, rtol=1e-12)


def test_stats_keep_their_digits_where_the_mean_is_large() -> None:
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64) + 1e4
    _, std = instance_stats(x.float(), 1e-12)
    _, expected = numpy_stats(x.float().numpy(), 1e-12)
    np.testing.assert_allclose(std.flatten(1).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(2, 3, 40, 40) * 30 + 100).to(dtype)
    mean, std = instance_stats(x)
    assert mean.dtype == std.dtype == torch.float32
    expected = numpy_stats(x.float().numpy(), 1e-5)
    np.testing.assert_allclose(mean.flatten(1).numpy(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(std.flatten(1).numpy(), expected[1], rtol=1e-5)
    restyled = cross_norm(x, x.flip(0))
    assert restyled.dtype == dtype
    exact = numpy_cross_norm(x.double().numpy(), x.flip(0).double().numpy())
    error = np.abs(restyled.double().numpy() - exact) / np.abs(exact).max()
    assert error.max() < torch.finfo(dtype).eps


@pytest.mark.parametrize("style_size", [(6, 5), (2, 2), (9, 3)])
def test_cross_norm_equals_numpy_for_any_style_size(style_size: tuple[int, int]) -> None:
    content = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    style = torch.randn(3, 4, *style_size, dtype=torch.float64) * 3 + 2
    expected = numpy_cross_norm(content.numpy(), style.numpy())
    np.testing.assert_allclose(cross_norm(content, style).numpy(), expected, rtol=1e-10)


@given(
    scale=st.floats(0.1, 50),
    shift=st.floats(-100, 100),
    size=st.tuples(st.integers(2, 7), st.integers(1, 7)),
)
@settings(max_examples=50, deadline=None)
def test_result_has_the_statistics_of_the_style(
    scale: float, shift: float, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(size[0] * 10 + size[1])
    content = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) * 7 - 3
    style = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) * scale + shift
    out = cross_norm(content, style, eps=0.0)
    for ours, wanted in zip(instance_stats(out, 0.0), instance_stats(style, 0.0), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(cross_norm(content, content), content, rtol=1e-8, atol=1e-8)


def test_gradients() -> None:
    content = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    style = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cross_norm, (content, style))
    assert torch.autograd.gradgradcheck(cross_norm, (content, style))
    assert torch.autograd.gradcheck(instance_stats, (content,))


def test_a_constant_channel_has_no_spread_whatever_its_value() -> None:
    x = torch.full((1, 1, 7, 7), 209.876)
    for value in (x, x.double()):
        torch.testing.assert_close(instance_stats(value, 1e-12)[1].item(), 1e-6, rtol=1e-4, atol=0)


def test_a_constant_channel_has_finite_gradients() -> None:
    x = torch.full((2, 3, 4, 4), 5.0, requires_grad=True)
    instance_stats(x, 1e-12)[1].sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), "(B, C, L), (B, C, H, W) or (B, C, T, H, W)"),
        (torch.zeros(1, 2, 3, 4, 5, 6), "(B, C, L), (B, C, H, W) or (B, C, T, H, W)"),
        (torch.zeros(2, 3, 0, 4), "at least 1 position"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "floating point"),
    ],
)
def test_bad_input_of_stats(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        instance_stats(x)


def test_content_and_style_must_agree() -> None:
    with pytest.raises(ValueError, match="agree in batch size and channels"):
        cross_norm(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="agree in batch size and channels"):
        cross_norm(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("beta", [0.3, 0.5, 0.8, 1.0, 4.0])
def test_beta_draws_follow_the_distribution(beta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [sample_beta(beta, generator) for _ in range(4000)]
    assert stats.kstest(draws, stats.beta(beta, beta).cdf).pvalue > 1e-3


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    min_area=st.floats(0, 0.9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_boxes_lie_inside_and_are_large_enough(
    height: int, width: int, min_area: float, seed: int
) -> None:
    if height * width < 2:
        return
    generator = torch.Generator().manual_seed(seed)
    box = sample_box(height, width, min_area=min_area, generator=generator)
    top, left, box_height, box_width = box
    assert 0 <= top < top + box_height <= height
    assert 0 <= left < left + box_width <= width
    assert box_height * box_width >= max(2, min_area * height * width)


def test_box_areas_follow_the_released_code() -> None:
    """Against a direct simulation of its rule: Beta area, uniform centre, clipping, rejection."""
    rng = np.random.default_rng(0)

    def reference() -> float:
        while True:
            side = int(32 * np.sqrt(rng.beta(1, 1)))
            ends = []
            for centre in rng.integers(32, size=2):
                ends.append(min(centre + side // 2, 32) - max(centre - side // 2, 0))
            if ends[0] * ends[1] / 1024 > 0.1:
                return ends[0] * ends[1] / 1024

    expected = [reference() for _ in range(3000)]
    generator = torch.Generator().manual_seed(1)
    boxes = [sample_box(32, 32, generator=generator) for _ in range(3000)]
    assert stats.ks_2samp(expected, [b[2] * b[3] / 1024 for b in boxes]).pvalue > 1e-3


@given(
    lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=5),
    min_area=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_spans_are_the_same_share_of_every_sequence(
    lengths: list[int], min_area: float, seed: int
) -> None:
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    first, last = sample_span(torch.tensor(lengths), min_area=min_area, generator=generators[0])
    start, _, length, _ = sample_box(1 << 24, 1, min_area=min_area, generator=generators[1])
    assert torch.equal(*(g.get_state() for g in generators))
    for n, a, b in zip(lengths, first.tolist(), last.tolist(), strict=True):
        assert 0 <= a <= b <= n and b - a >= max(min(n, 2), min_area * n)
        if b - a > 2:
            assert abs(a / n - start / 2**24) <= 1 / n
            assert abs(b / n - (start + length) / 2**24) <= 1 / n


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((1, 1), {}, "at least 2 positions"),
        ((4, 4), {"min_area": 1.0}, "min_area"),
        ((4, 4), {"beta": 0.0}, "beta"),
    ],
)
def test_bad_boxes(size: tuple[int, int], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_box(*size, **options)
