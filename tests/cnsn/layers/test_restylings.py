"""The relatives of CrossNorm against NumPy in float64, at their limits, and their draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnsn import (
    DSU,
    NP,
    CovarianceExchange,
    CrossNorm,
    EFDMix,
    MixStyle,
    MomentExchange,
    NPPlus,
    PAdaIN,
    kernels,
)
from cnsn.functional import cross_norm
from cnsn.layers.base import Restyling
from cnsn.layers.efdmix import sorted_stably
from cnsn.layers.statistics import draw_beta

Array = np.ndarray
ORDER = torch.tensor([2, 0, 3, 1])
# Where the draws come from, after the permutation of those that have partners.
SEED = 5


def on(layer: Restyling, seed: int = SEED, paired: bool = True) -> Restyling:
    """`layer`, active, with the same draws in every forward."""
    layer.active = True
    if paired and layer.PAIRED:
        layer.partner = ORDER
    forward = layer.forward

    def frozen(*args: Any) -> Tensor:
        layer.generator = torch.Generator().manual_seed(seed)
        return forward(*args)

    layer.forward = frozen  # type: ignore[method-assign]
    return layer


def maps(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape or (4, 3, 5, 6), generator=generator, dtype=torch.float64)
    return (
        1 + x * torch.rand(x.shape[:2], generator=generator, dtype=torch.float64)[..., None, None]
    )


def statistics(x: Array, eps: float) -> tuple[Array, Array]:
    flat = x.reshape(*x.shape[:2], -1)
    return flat.mean(-1), np.sqrt(flat.var(-1, ddof=1) + eps)


def given(x: Array, eps: float, mean: Array, std: Array) -> Array:
    own_mean, own_std = (s[..., None, None] for s in statistics(x, eps))
    return (x - own_mean) / own_std * std[..., None, None] + mean[..., None, None]


def lam() -> Array:
    return draw_beta(0.1, 4, torch.Generator().manual_seed(SEED)).double().numpy()


def noise(count: int) -> list[Array]:
    generator = torch.Generator().manual_seed(SEED)
    return [torch.randn(4, 3, generator=generator).double().numpy() for _ in range(count)]


def mixstyle(x: Array) -> Array:
    mean, std = statistics(x, 1e-6)
    new = (lam() * s + (1 - lam()) * s[ORDER] for s in (mean, std))
    return given(x, 1e-6, *new)


def efdmix(x: Array) -> Array:
    y = x.copy()
    for sample, partner in enumerate(ORDER.tolist()):
        for channel in range(x.shape[1]):
            own, style = x[sample, channel].ravel(), np.sort(x[partner, channel].ravel())
            matched = np.empty_like(own)
            matched[np.argsort(own, kind="stable")] = style
            share = lam()[sample, 0]
            y[sample, channel] = (share * own + (1 - share) * matched).reshape(x.shape[2:])
    return y


def dsu(x: Array) -> Array:
    mean, std = statistics(x, 1e-6)
    first, second = noise(2)
    spread = [np.sqrt(s.var(0, ddof=1) + 1e-6) for s in (mean, std)]
    return given(x, 1e-6, mean + first * spread[0], std + second * spread[1])


def padain(x: Array) -> Array:
    mean, std = statistics(x, 1e-5)
    return given(x, 1e-5, mean[ORDER], std[ORDER])


def means(x: Array) -> Array:
    mean, std = statistics(x, 1e-5)
    return given(x, 1e-5, mean[ORDER], std)


def stds(x: Array) -> Array:
    mean, std = statistics(x, 1e-5)
    return given(x, 1e-5, mean, std[ORDER])


def perturbed(x: Array, plus: bool) -> Array:
    mean = x.mean((2, 3))
    a, b = (1 + 0.5 * n for n in noise(2))
    if not plus:
        return a[..., None, None] * (x - mean[..., None, None]) + (b * mean)[..., None, None]
    delta = mean.var(0)
    shift = delta / delta.max() * (b - a) * mean
    return a[..., None, None] * x + shift[..., None, None]


def covariance(x: Array) -> Array:
    flat = x.reshape(*x.shape[:2], -1)

    def root(matrix: Array, power: float) -> Array:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * (values + 1e-5) ** power) @ vectors.T

    y = np.empty_like(flat)
    for sample, partner in enumerate(ORDER.tolist()):
        own, style = flat[sample], flat[partner]
        centred = own - own.mean(1, keepdims=True)
        y[sample] = root(np.cov(style), 0.5) @ root(np.cov(own), -0.5) @ centred
        y[sample] += style.mean(1, keepdims=True)
    return y.reshape(x.shape)


TWINS: dict[str, tuple[Callable[[], Restyling], Callable[[Array], Array]]] = {
    "mixstyle": (MixStyle, mixstyle),
    "efdmix": (EFDMix, efdmix),
    "dsu": (DSU, dsu),
    "padain": (PAdaIN, padain),
    "both": (MomentExchange, padain),
    "mean": (lambda: MomentExchange(orders=("mean",)), means),
    "std": (lambda: MomentExchange(orders=["std"]), stds),
    "np": (NP, lambda x: perturbed(x, False)),
    "np_plus": (NPPlus, lambda x: perturbed(x, True)),
    "covariance": (CovarianceExchange, covariance),
}


@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "reference"])
@pytest.mark.parametrize("name", TWINS)
def test_equals_numpy(name: str, reference: bool) -> None:
    layer, twin = on(TWINS[name][0]()), TWINS[name][1]
    x = maps()
    with kernels.disabled() if reference else torch.enable_grad():
        found, single = layer(x), layer(x.float())
        last = layer(x.to(memory_format=torch.channels_last))
    assert np.abs(found.numpy() - twin(x.numpy())).max() < 1e-6
    assert torch.allclose(last, found, rtol=0, atol=1e-9)
    assert torch.allclose(single.double(), found, rtol=0, atol=2e-4)
    # Sequences are maps one position wide.
    assert torch.allclose(layer(x.flatten(2)), found.flatten(2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "reference"])
@pytest.mark.parametrize(
    "layer",
    [
        MixStyle(detach=False),
        DSU(),
        PAdaIN(detach=False),
        MomentExchange(),
        MomentExchange(orders=("mean",)),
        MomentExchange(orders=("std",)),
        NP(),
        NPPlus(),
    ],
    ids=repr,
)
def test_gradients_with_frozen_draws(layer: Restyling, reference: bool) -> None:
    x = maps(4, 2, 2, 3).requires_grad_()
    with kernels.disabled() if reference else torch.enable_grad():
        assert torch.autograd.gradcheck(on(layer), x)


@pytest.mark.parametrize(
    "layer", [MixStyle(), DSU(detach=True), NP(detach=True), MomentExchange(detach=True)], ids=repr
)
def test_detached_gradient_is_the_gain(layer: Restyling) -> None:
    x = maps().requires_grad_()
    layer = on(layer)
    with torch.no_grad():
        # The gain of a rule that is linear in the map, from two of its positions.
        y = layer(x)
        gain = (y[..., 0, 0] - y[..., 1, 1]) / (x[..., 0, 0] - x[..., 1, 1])
    dy = maps(seed=1)
    for context in (kernels.disabled(), torch.enable_grad()):
        with context:
            (dx,) = torch.autograd.grad(layer(x), x, dy)
        assert torch.allclose(dx, gain[..., None, None] * dy, rtol=1e-6, atol=1e-9)


def test_limits_of_mixstyle(monkeypatch: pytest.MonkeyPatch) -> None:
    x = maps().requires_grad_()
    dy = maps(seed=1)
    y = on(MixStyle(alpha=0, detach=False))(x)
    expected = cross_norm(x, x[ORDER], eps=1e-6)
    assert torch.allclose(y, expected, rtol=0, atol=1e-9)
    gradients = [torch.autograd.grad(z, x, dy)[0] for z in (y, expected)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-9)
    ones = torch.ones(4, 1)
    monkeypatch.setattr("cnsn.layers.mixstyle.draw_beta", lambda *_: ones)
    assert torch.allclose(on(MixStyle())(x), x, rtol=0, atol=1e-9)


def test_only_the_partner_s_gradient_parts_padain_from_crossnorm() -> None:
    x = maps().requires_grad_()
    crossnorm = on(CrossNorm())
    assert torch.allclose(on(PAdaIN())(x), crossnorm(x), rtol=0, atol=1e-9)
    # Sample 0 takes the style of sample 2, and gives its own to sample 1.
    reached = []
    for layer in (on(PAdaIN()), crossnorm, on(PAdaIN(detach=False))):
        (dx,) = torch.autograd.grad(layer(x)[0].pow(3).sum(), x)
        assert dx[0].abs().max() > 0
        reached.append(dx[2].abs().max().item())
    assert reached[0] == 0 and reached[1] > 0
    assert reached[2] == pytest.approx(reached[1])


def test_efdm_gives_the_partner_s_distribution_and_passes_gradients() -> None:
    x = maps(4, 3, 9, 7).float().requires_grad_()
    y = on(EFDMix(alpha=0))(x)
    ordered = [z.detach().flatten(2).sort(-1).values for z in (y, x[ORDER])]
    assert torch.allclose(*ordered, rtol=0, atol=1e-6)
    dy = maps(4, 3, 9, 7, seed=1).float()
    assert torch.equal(torch.autograd.grad(y, x, dy)[0], dy)
    # No order within a channel changes.
    places = [z.detach().flatten(2).argsort(-1) for z in (x, y)]
    assert torch.equal(*places)
    for sample, partner in enumerate(ORDER.tolist()):
        for channel in range(3):
            own, style = (t.detach()[channel].double().numpy() for t in (x[sample], x[partner]))
            # Histogram matching by cumulative distributions, as image libraries write it.
            _, place, counts = np.unique(own, return_inverse=True, return_counts=True)
            values, style_counts = np.unique(style, return_counts=True)
            shares = [np.cumsum(c) / own.size for c in (counts, style_counts)]
            matched = np.interp(shares[0], shares[1], values)[place].reshape(own.shape)
            assert np.allclose(y[sample, channel].detach().numpy(), matched, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ties_are_ranked_by_position(dtype: torch.dtype) -> None:
    x = maps(4, 3, 16, 16).to(dtype).relu() - 0.5
    layer, threads = on(EFDMix(alpha=0)), torch.get_num_threads()
    found = [layer(x), layer(x.to(memory_format=torch.channels_last))]
    try:
        torch.set_num_threads(2)
        found.append(layer(x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])
    values, index = sorted_stably(x.flatten(2).float())
    expected = torch.sort(x.flatten(2).float(), dim=-1, stable=True)
    assert torch.equal(values, expected.values) and torch.equal(index, expected.indices)


def test_extreme_numbers_are_sorted() -> None:
    x = torch.tensor([[[3e38, -1.0, torch.inf, 1e-45, -1e-45, -torch.inf, -3e38, 2.0]]])
    values, index = sorted_stably(x)
    assert torch.equal(values, x.sort(-1).values) and torch.equal(x.gather(-1, index), values)


def test_covariance_is_the_partner_s() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mixtures = (torch.randn(s, generator=generator) for s in ((4, 6, 12, 12), (4, 6, 6)))
    x = torch.einsum("bij,bjhw->bihw", torch.eye(6) + 0.2 * mixtures, x)
    y = on(CovarianceExchange())(x)
    found, expected = (
        torch.stack([torch.cov(m) for m in z.flatten(2).double()]) for z in (y, x[ORDER])
    )
    assert torch.allclose(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("layer", [DSU(), NP(), NPPlus()], ids=repr)
def test_spread_of_drawn_statistics(layer: Restyling) -> None:
    n, (first, second) = 20_000, (0.3, -0.8)
    x = torch.tensor([[first, second], [second, first]] * (n // 2), dtype=torch.float64)
    x = x[:, :, None, None] + torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    y = on(layer)(x)
    drawn = y.mean((2, 3)), (y[..., 0, 1] - y[..., 0, 0]) / 2**0.5
    mean, std = x.mean((2, 3)), torch.full((n, 2), 2**0.5, dtype=torch.float64)
    for statistic, own in zip(drawn, (mean, std), strict=True):
        if isinstance(layer, DSU):
            wide = (own.var(0) + layer.eps).sqrt().expand_as(own)
        else:
            wide = layer.spread * own.abs()  # type: ignore[attr-defined]
        deviation = (statistic - own) / wide
        # Standard errors of a mean and of a standard deviation.
        assert (deviation.mean(0).abs() < 4 / n**0.5).all()
        assert ((deviation.std(0) - 1).abs() < 4 / (2 * n) ** 0.5).all()


def test_draws_of_beta() -> None:
    n = 20_000
    for alpha in (0.1, 1.0, 3.0):
        drawn = draw_beta(alpha, n, torch.Generator().manual_seed(0)).double()
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(drawn.mean() - 0.5) < 4 * (variance / n) ** 0.5
        kurtosis = ((drawn - 0.5) ** 4).mean() - variance**2
        assert abs(drawn.var() - variance) < 4 * (kurtosis / n) ** 0.5
    assert not draw_beta(0, 3, None).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MixStyle(alpha=-0.1), "`alpha` to be finite and 0 or more"),
        (lambda: EFDMix(alpha=float("nan")), "`alpha` to be finite"),
        (lambda: DSU(factor=float("inf")), "`factor` to be finite"),
        (lambda: NP(spread=-1.0), "`spread` to be finite"),
        (lambda: MomentExchange(orders=()), "`orders` to hold one or both"),
        (lambda: MomentExchange(orders=("mean", "mean")), "each once"),
        (lambda: MomentExchange(orders=("skew",)), "got \\('skew',\\)"),
        (lambda: on(CovarianceExchange())(torch.zeros(4, 513, 2, 2)), "at most 512 channels"),
        (lambda: on(CovarianceExchange(channel_dim=-1))(torch.zeros(4, 2, 513)), "at most 512"),
    ],
)
def test_bad_options(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
