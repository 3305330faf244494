"""Random numbers that are a function of what they are for, never of how many came before.

Every number is a hash of (seed, stream, epoch, sample index, draw), so that a resumed run, another
number of workers or another number of processes sees the same augmentations. The hash is the
finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"), written in tensor arithmetic: a batch is drawn at once, on its device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["derive_seed", "generator_for", "sample_normal", "sample_uniform"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The 64-bit pattern `value` as the signed integer that torch's int64 holds."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from integers and names; other parts give an unrelated seed."""
    state = 0
    for part in parts:
        if isinstance(part, str):
            for byte in part.encode():
                state = _mix(state ^ byte)
            state = _mix(state ^ len(part))
        else:
            state = _mix(state ^ (part & _MASK))
    return state >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def sample_normal(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers, the same on every processor: float64 (B, *shape).

    They are those of ``torch.randn(shape, generator=generator)`` of each generator but for
    rounding: torch's own float32 logarithm and cosine depend on the processor's instructions. In
    float64 that is far below what a pixel shows.
    """
    n = math.prod(shape)
    if n < 16:  # torch computes few numbers one by one, in float64
        few = [torch.randn(shape, generator=g) for g in generators]
        return torch.stack(few).double()
    drawn, tails = [], []
    for generator in generators:
        drawn.append(torch.rand(n, generator=generator))
        if n % 16:  # the last 16 are drawn again
            tails.append(torch.rand(16, generator=generator))
    normal = torch.empty(len(generators), n, dtype=torch.float64)
    whole = n - n % 16
    normal[:, :whole] = _box_muller(torch.stack(drawn)[:, :whole])
    if tails:
        normal[:, -16:] = _box_muller(torch.stack(tails))
    return normal.view(len(generators), *shape)


def _box_muller(uniform: Tensor) -> Tensor:
    """Normal numbers (B, n) from uniform ones in [0, 1): 8 radii and 8 angles in turn."""
    radius, angle = uniform.double().unflatten(1, (-1, 2, 8)).unbind(2)
    radius, angle = (-2 * torch.log1p(-radius)).sqrt(), 2 * math.pi * angle
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 2).flatten(1)


def _shifted_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def sample_uniform(seed: int, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in [0, 1) for each sample.

    Args:
        seed: from :func:`derive_seed`, of everything but the sample (run seed, stream, epoch).
        index: int64 (B,), the samples' indices in their data set.
        draws: how many numbers a sample needs.

    Returns:
        float32 (B, draws) on the device of `index`; row i depends on `seed` and ``index[i]`` alone.
    """
    counter = index.long()[:, None] * draws + torch.arange(draws, device=index.device)
    z = (counter + 1) * _signed(_GOLDEN) + _signed(_mix(seed))
    z = (z ^ _shifted_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted_right(z, 27)) * _signed(_MIX_2)
    z = z ^ _shifted_right(z, 31)
    return _shifted_right(z, 40).float() * 2.0**-24
