from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from data.randomness import derive_seed, generator_for, sample_normal, sample_uniform

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The published generator's output function, in Python integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_uniform_equals_splitmix64_in_integers() -> None:
    seed, draws = derive_seed(3, "x", 7), 5
    index = torch.tensor([0, 1, 49_999, 2**40])
    offset = splitmix64(seed + 0x9E3779B97F4A7C15)
    expected = [
        [
            (splitmix64((i * draws + d + 1) * 0x9E3779B97F4A7C15 + offset) >> 40) / 2**24
            for d in range(draws)
        ]
        for i in index.tolist()
    ]
    assert sample_uniform(seed, index, draws).tolist() == expected


def test_uniform_is_uniform_and_uncorrelated() -> None:
    numbers = sample_uniform(derive_seed(0), torch.arange(20_000), 3).numpy()
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.03


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = sample_uniform(5, torch.arange(100), 4)
    part = sample_uniform(5, torch.tensor([17, 3]), 4)
    assert torch.equal(part, whole[[17, 3]])


def test_seeds_differ_between_parts() -> None:
    parts = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "ab"), (0, "a", "b")]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    assert derive_seed(1, "order", 2) == derive_seed(1, "order", 2)
    first = torch.rand(3, generator=generator_for(1, "order", 2))
    assert torch.equal(first, torch.rand(3, generator=generator_for(1, "order", 2)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 17, 23), (16,), (5,)])
def test_normal_numbers_are_those_of_torch_but_for_rounding(shape: tuple[int, ...]) -> None:
    ours, theirs = ([torch.Generator().manual_seed(i) for i in range(3)] for _ in range(2))
    drawn = sample_normal(ours, *shape)
    expected = torch.stack([torch.randn(shape, generator=g) for g in theirs]).double()
    torch.testing.assert_close(drawn, expected, rtol=2e-6, atol=2e-6)
    for one, other in zip(ours, theirs, strict=True):  # what is drawn next is the same, too
        assert torch.equal(one.get_state(), other.get_state())
