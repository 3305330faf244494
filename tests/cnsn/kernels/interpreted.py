"""The Triton kernels against the CPU's, run by Triton's interpreter: `python -m` this [--quick].

Not collected: the interpreter is chosen by an environment variable before Triton is imported.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from cnsn import CrossNorm, SelfNorm, kernels
from cnsn.kernels import autograd, cpu, gpu, launch, tile_sums, tiles
from cnsn.kernels.regions import Box, Exchange, Term
from tests.cnsn.kernels import test_fast
from tests.cnsn.layers.test_layers import active

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
    numbers = torch.randn(3, *x.shape[:2])
    # The interpreter cuts bfloat16 off instead of rounding it.
    tolerance = 1e-5 if x.dtype == torch.float32 else 1e-2
    # Large enough to be missed.
    eps = 0.1
    ours, theirs = gpu.moments(x, box, eps), cpu.moments(x, box, eps)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert mine.shape == other.shape == x.shape[:2] and mine.dtype == torch.float32
    exact, found = (m.mean.double() + (0 if m.rest is None else m.rest) for m in (theirs, ours))
    accuracy = 1e-6 * theirs.std.max() + (1e-7 * exact.abs().max() if ours.rest is None else 0)
    assert (found - exact).abs().max() < accuracy
    close(ours.std, theirs.std, 1e-5)
    mean = theirs.mean
    for centre, shift in ((mean, numbers[1]), (None, None)):
        if centre is not None or box is None:
            args = (x, box, centre, numbers[0], shift)
            close(gpu.affine(*args), cpu.affine(*args), tolerance)
        for mine, other in zip(
            gpu.products(x, dy, box, centre), cpu.products(x, dy, box, centre), strict=True
        ):
            close(mine, other, 1e-5)
    arguments = (x, dy, numbers[0], Term(None, mean, numbers[1], numbers[2]))
    close(gpu.gradient(*arguments), cpu.gradient(*arguments), tolerance)
    style = cpu.moments(x, style_box, eps) if box is not None else theirs
    # A permutation, and styles that several take, and some nobody.
    orders = (torch.randperm(len(x)), torch.randint(x.shape[1], x.shape[1:2]))
    for dim, order in enumerate(orders):
        results = []
        for module in (gpu, cpu):
            swap = Exchange(module.partners(order, x.device), dim, theirs, style)
            results += [module.exchange(x, swap), module.exchange_gradient(x, dy, swap)]
        close(results[0], results[2], tolerance)
        close(results[1], results[3], tolerance)


def check_layers(shape: tuple[int, ...], layout: str, ratio: float) -> None:
    """Forward and backward of the layers on these kernels, against the reference in float64."""
    x = test_fast.laid_out(test_fast.maps(shape, ratio, 0).float(), layout)
    for two_sided, training in itertools.product((False, True), (True, False)):
        layer = SelfNorm(shape[1], two_sided=two_sided).train(training)
        check_selfnorm(layer, x, parameters=ratio == 1.0)
    layer = SelfNorm(shape[1], two_sided=True)
    layer.g_bn.momentum = None
    check_selfnorm(layer, x, parameters=False)
    for frozen in (0, 1):
        layer = SelfNorm(shape[1], two_sided=True)
        norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm1d)]
        norms[frozen].eval()
        norms[frozen].eps = 0.3
        check_selfnorm(layer, x, parameters=ratio == 1.0)
    for crop in test_fast.CROPS:
        test_fast.check(*(active(3, crop=crop) for _ in range(2)), x, 1e-5)


def check_selfnorm(layer: SelfNorm, x: Tensor, parameters: bool) -> None:
    exact = copy.deepcopy(layer).double()
    test_fast.check(layer, exact, x, 1e-5)
    for ours, theirs in zip(layer.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)
    for mine, other in zip(layer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        error = (mine.grad.double() - other.grad).abs().max() / other.grad.abs().max()
        assert error < 1e-5 or not parameters, error


def check_second_order() -> None:
    layers = (SelfNorm(2), SelfNorm(2).eval(), SelfNorm(2, two_sided=True), active(crop="both"))
    for layer in layers:
        found = []
        for context in (contextlib.nullcontext(), kernels.disabled()):
            if isinstance(layer, CrossNorm):
                layer.generator = torch.Generator().manual_seed(0)
            x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
            with context:
                loss = layer(x).pow(3).sum()
                (dx,) = torch.autograd.grad(loss, x, create_graph=True)
                loss = loss + dx.square().sum()
                found.append((dx, *torch.autograd.grad(loss, [x, *layer.parameters()])))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def check_far_elements() -> None:
    """Channels, and positions, more than 2**31 elements apart; other memory is not touched."""
    memory = torch.empty(2**31 + 2, dtype=torch.float16)
    here, sizes = memory[:: 2**30], {"BLOCK_P": 4, "BLOCK_C": 4}
    # channels, positions, map_width, and the strides of samples, channels and positions.
    for where in ((3, 1, 1, 0, 2**30, 1), (1, 3, 3, 0, 1, 2**30), (1, 3, 1, 0, 1, 2**30)):
        channels, positions, width = where[:3]
        box, n = (0, 0, positions // width, width), float(positions)
        here.copy_(torch.tensor([1.0, 2.0, 5.0]))
        mean, std, rest, sums = (torch.zeros(1, channels) for _ in range(4))
        for boxed in (False, True):
            flags = {"BOXED": boxed, **sizes}
            args = (memory, mean, std, rest, *where, *box, 1, n, 0.0)
            tile_sums.moments[1, 1](*args, WHOLE=True, **flags)
            args = (memory, memory, mean, sums, sums, *where, *box, 1)
            tile_sums.products[1, 1](*args, CENTRED=False, **flags)
            values = here.float().view(channels, -1)
            torch.testing.assert_close(mean[0], values.mean(1))
            torch.testing.assert_close(sums[0], values.square().sum(1))
            two, one = torch.full_like(mean, 2), torch.ones_like(mean)
            tiles.affine[1, 1](memory, memory, mean, two, one, *where, *box, CENTRED=True, **flags)
            expected = 2 * (values - values.mean(1, keepdim=True)) + 1
            torch.testing.assert_close(here.float(), expected.flatten(), rtol=1e-3, atol=1e-3)


# Forward and backward, of ours; where the map is not split.
LAUNCHES = {
    "SelfNorm": (3, 3),
    "SelfNorm, eval": (2, 3),
    "SelfNorm, two-sided": (4, 4),
    "CrossNorm": (2, 2),
    "CrossNorm, content": (3, 2),
}


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU: our kernels, and operations that compute."""

    # What a layer draws is drawn on the host.
    NONE = (
        "view",
        "select",
        "split",
        "unsqueeze",
        "squeeze",
        "alias",
        "detach",
        "empty",
        "as_strided",
        "rand",
    )

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.others = 0, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not name.startswith(self.NONE + tuple(f"_{v}" for v in self.NONE) + ("new_empty",)):
            self.others.append(name)
        return func(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def launch(self, _: Tensor) -> Iterator[None]:
        """In place of what surrounds every launch of ours."""
        self.ours += 1
        with _disable_current_modes():
            yield


def launches(layer: nn.Module, x: Tensor) -> list[tuple[int, list[str]]]:
    """Of the layer's forward, and of its backward."""
    x, dy = x.detach().requires_grad_(), torch.randn_like(x)
    around, partners = launch._on, gpu.partners

    def on_the_host(*args: Any) -> Any:
        with _disable_current_modes():
            return partners(*args)

    gpu.partners = on_the_host
    forward, backward = Launches(), Launches()
    try:
        launch._on = forward.launch
        with forward:
            y = layer(x)
        launch._on = backward.launch
        with backward:
            y.backward(dy)
    finally:
        launch._on, gpu.partners = around, partners
    return [(counted.ours, counted.others) for counted in (forward, backward)]


def check_launches() -> None:
    x = torch.randn(4, 3, 6, 6)
    layers = {
        "SelfNorm": SelfNorm(3),
        "SelfNorm, eval": SelfNorm(3).eval(),
        "SelfNorm, two-sided": SelfNorm(3, two_sided=True),
        "CrossNorm": active(),
        "CrossNorm, content": active(crop="content"),
    }
    for name, layer in layers.items():
        assert launches(layer, x) == [(n, []) for n in LAUNCHES[name]], (name, launches(layer, x))


def main(quick: bool) -> None:
    torch.manual_seed(0)
    # Small tiles, so that there are several, and parts to put together.
    launch.TILE = 128
    shapes = SHAPES[:1] + SHAPES[3:] if quick else SHAPES
    cases = list(itertools.product(shapes, (torch.float32,), (False, True)))
    for shape, dtype, last in [*cases, (SHAPES[0], torch.bfloat16, False)]:
        layout = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(shape) + 100 * torch.randn(*shape[:2], 1, 1)
        x = x.to(dtype).contiguous(memory_format=layout)
        dy = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        height, width = shape[2:]
        for box in (None, (height // 3, width // 4, height // 2 + 1, width // 2 + 1)):
            check(x, dy, box, (0, 0, height, max(width // 2, 1)))
    x, dy = torch.randn(2, 1, 2, 40, 25).unbind()
    assert launch.Launch(x, None).parts > 1
    launch.GRID = 3
    assert launch.Launch(x, None).tiles <= 3
    check(x, dy, None, None)
    backend, autograd.backend = autograd.backend, lambda _: gpu
    check_layers((3, 3, 9), "strided", 30.0)
    if not quick:
        check_layers((4, 3, 5, 7), "channels_last", 1.0)
        check_layers((3, 2, 20, 30), "contiguous", 1e3)
        check_far_elements()
    test_fast.test_the_mean_s_rounding_error_is_made_good()
    check_second_order()
    check_launches()
    autograd.backend = backend
    print("checked")


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
