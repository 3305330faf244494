"""The Triton kernels against the CPU's, run by Triton's interpreter: `python -m` this.

Not collected: the interpreter is chosen by an environment variable before Triton is imported.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor

from cnsn import SelfNorm
from cnsn.kernels import autograd, cpu, gpu
from cnsn.kernels.regions import Box, Term
from tests.cnsn import test_fast
from tests.cnsn.test_layers import active

SHAPES = [(2, 3, 5, 7), (2, 70, 4, 2), (1, 2, 40, 25), (2, 5, 9, 1), (1, 1, 1, 2)]


def close(ours: Tensor | None, theirs: Tensor | None, tolerance: float) -> None:
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert ours.stride() == theirs.stride()
    error = (ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()
    assert error < tolerance, error


def check(x: Tensor, dy: Tensor, box: Box | None, style_box: Box | None) -> None:
    numbers = torch.randn(5, *x.shape[:2])
    # The interpreter cuts bfloat16 off instead of rounding it.
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-2
    ours, theirs = gpu.moments(x, box), cpu.moments(x, box)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape == x.shape[:2] and mine.dtype == torch.float32
    exact = theirs[0].double() + theirs[1].double()
    spread = theirs[2].max().sqrt()
    assert (ours[0].double() + ours[1].double() - exact).abs().max() < 1e-6 * spread
    close(ours[2], theirs[2], 1e-5)
    mean = theirs[0]
    for centre, shift in ((mean, numbers[1]), (None, None)):
        if centre is not None or box is None:
            args = (x, box, centre, numbers[0], shift)
            close(gpu.affine(*args), cpu.affine(*args), tolerance)
        for mine, other in zip(
            gpu.products(x, dy, box, centre), cpu.products(x, dy, box, centre), strict=True
        ):
            close(mine, other, 1e-5)
    content = Term(box, mean, numbers[1], numbers[2])
    for style in (None, Term(style_box, mean, numbers[3], numbers[4])):
        arguments = (x, dy, numbers[0], content, style)
        close(gpu.gradient(*arguments), cpu.gradient(*arguments), tolerance)


def check_layers(shape: tuple[int, ...], layout: str, ratio: float) -> None:
    """Forward and backward of the layers on these kernels, against the reference in float64."""
    x = test_fast.laid_out(test_fast.maps(shape, ratio, 0).float(), layout)
    for two_sided in (False, True):
        layer = SelfNorm(shape[1], two_sided=two_sided)
        test_fast.check(layer, copy.deepcopy(layer).double(), x, 1e-5)
    for crop in test_fast.CROPS:
        test_fast.check(*(active(3, crop=crop) for _ in range(2)), x, 1e-5)


def main() -> None:
    torch.manual_seed(0)
    # Small tiles, so that there are several, and parts to put together.
    gpu.TILE = 128
    cases = list(itertools.product(SHAPES, (torch.float32,), (False, True)))
    for shape, dtype, last in [*cases, (SHAPES[0], torch.bfloat16, False)]:
        layout = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(shape) + 100 * torch.randn(*shape[:2], 1, 1)
        x = x.to(dtype).contiguous(memory_format=layout)
        dy = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        height, width = shape[2:]
        for box in (None, (height // 3, width // 4, height // 2 + 1, width // 2 + 1)):
            check(x, dy, box, (0, 0, height, max(width // 2, 1)))
    x, dy = torch.randn(2, 1, 2, 40, 25).unbind()
    assert gpu._Launch(x, None).parts > 1
    gpu.GRID = 3
    assert gpu._Launch(x, None).tiles <= 3
    check(x, dy, None, None)
    backend, autograd.backend = autograd.backend, lambda _: gpu
    check_layers((4, 3, 5, 7), "channels_last", 1.0)
    check_layers((3, 2, 20, 30), "contiguous", 1e3)
    check_layers((3, 3, 9), "strided", 30.0)
    autograd.backend = backend
    print("checked")


if __name__ == "__main__":
    main()
