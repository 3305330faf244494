"""Random numbers that are a function of what they are for, never of how many came before.

Every number is a hash of (seed, stream, epoch, sample index, draw), so that a resumed run, another
number of workers or another number of processes sees the same augmentations. The hash is the
finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"), written in tensor arithmetic: a batch is drawn at once, on its device.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["derive_seed", "generator_for", "sample_uniform"]

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
