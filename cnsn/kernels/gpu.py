"""The layers' kernels on CUDA, in Triton: one launch reduces, one applies, each way.

The kernels are in :mod:`cnsn.kernels.tiles`. They take any layout: strides of samples, channels and
positions say where an element lies. Maps are dense, so that Triton sees what lies side by side and
loads 16 bytes at a time. Boxes are ordinary numbers that it must not specialise on, so a new box
needs no compilation. Sums of squares merge tiles around their own means (Chan, Golub, LeVeque 1979,
"Updating formulae and a pairwise algorithm for computing sample variances"), in float32.

The functions are those of :mod:`cnsn.kernels.cpu`, and SelfNorm's gates; the arithmetic is tested
with Triton's interpreter.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
from torch import Tensor

from cnsn.kernels import tiles
from cnsn.kernels.regions import (
    Box,
    Gate,
    Moments,
    Term,
    full_box,
    is_channels_last,
    positions,
    to_device,
)

__all__ = [
    "affine",
    "exchange",
    "exchange_gradient",
    "gate_gradient",
    "gated",
    "gradient",
    "moments",
    "partners",
    "products",
]

# Elements of a tile, and how many programs keep a GPU busy.
TILE = 2048
PROGRAMS = 2048
# Of a grid's second dimension.
GRID = 65535
# Channels and samples that a program reduces over the batch.
BATCH_TILE = (8, 128)


class _Launch:
    """Tiles and grids for a map. Nothing in it but the grid depends on the box."""

    def __init__(self, x: Tensor, box: Box | None) -> None:
        self.x, self.box = x, full_box(x) if box is None else box
        _, channels, height, width = x.shape
        count, last = height * width, is_channels_last(x)
        if last:
            block_c = min(triton.next_power_of_2(channels), 64)
            block_p = min(triton.next_power_of_2(count), TILE // block_c)
        else:
            block_p = min(triton.next_power_of_2(count), TILE)
            block_c = min(triton.next_power_of_2(channels), TILE // block_p)
        while math.ceil(count / block_p) > GRID:
            block_p *= 2
        # Strides of samples, channels and positions.
        strides = (channels * count, *((1, channels) if last else (count, 1)))
        self.where = (channels, count, width, *strides)
        self.blocks: dict[str, Any] = {"BLOCK_P": block_p, "BLOCK_C": block_c}
        self.boxed: dict[str, Any] = {"BOXED": box is not None, **self.blocks}
        self.rows = len(x) * math.ceil(channels / block_c)
        self.tiles = math.ceil(count / block_p)
        # Long maps of few channels are split, and the parts put together by the caller.
        self.parts = max(1, min(PROGRAMS // self.rows, self.tiles // 4))
        # In tiles.
        self.chunk = math.ceil(positions(x, box) / (self.parts * block_p))

    def numbers(self, *sizes: int) -> Tensor:
        """(*sizes, B, C)"""
        return self.x.new_empty(*sizes, *self.x.shape[:2], dtype=torch.float32)

    def reduce(self, kernel: Any, *args: Any, tail: tuple[float, ...] = (), **flags: Any) -> None:
        with _on(self.x):
            kernel[(self.rows, self.parts)](
                *args, *self.where, *self.box, self.chunk, *tail, **flags, **self.boxed
            )

    def apply(self, kernel: Any, *args: Any, boxes: tuple[int, ...] = (), **flags: Any) -> None:
        sizes = self.boxed if boxes else self.blocks
        with _on(self.x):
            kernel[(self.rows, self.tiles)](*args, *self.where, *boxes, **flags, **sizes)


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _counts(x: Tensor, box: Box | None) -> tuple[float, float]:
    n = positions(x, box)
    return float(n), float(max(n - 1, 1))


def moments(x: Tensor, box: Box | None, eps: float) -> Moments:
    launch = _Launch(x, box)
    n, freedom = _counts(x, box)
    mean, std, rest = (launch.numbers(launch.parts) for _ in range(3))
    whole = launch.parts == 1
    launch.reduce(tiles.moments, x, mean, std, rest, tail=(freedom, eps), WHOLE=whole)
    mean, std, rest = _merged(launch, mean, std, rest, (int(n), freedom, eps))
    return Moments(box, mean, std, rest if x.dtype == mean.dtype else None)


def _merged(
    launch: _Launch, mean: Tensor, squares: Tensor, rest: Tensor, tail: tuple[float, ...]
) -> tuple[Tensor, ...]:
    if launch.parts == 1:
        return mean[0], squares[0], rest[0]
    results = tuple(launch.numbers() for _ in range(3))
    numbers, size = mean[0].numel(), launch.chunk * launch.blocks["BLOCK_P"]
    with _on(mean):
        tiles.merge[(triton.cdiv(numbers, 256),)](
            mean, squares, rest, *results, numbers, launch.parts, size, *tail, BLOCK=256
        )
    return results


def affine(
    x: Tensor, box: Box | None, mean: Tensor | None, gain: Tensor, shift: Tensor | None
) -> Tensor:
    launch, y = _Launch(x, box), torch.empty_like(x)
    centred = mean is not None
    args = (x, y, mean if centred else gain, gain, shift if centred else gain)
    launch.apply(tiles.affine, *args, boxes=launch.box, CENTRED=centred)
    return y


def products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    launch, centred = _Launch(x, box), mean is not None
    sums = launch.numbers(1 + centred, launch.parts)
    centre = mean if centred else sums
    launch.reduce(tiles.products, x, dy, centre, sums[0], sums[-1], CENTRED=centred)
    sums = sums[:, 0] if launch.parts == 1 else sums.sum(1)
    return sums[0], sums[1] if centred else None


def gradient(x: Tensor, dy: Tensor, gain: Tensor, term: Term) -> Tensor:
    launch, dx = _Launch(x, None), torch.empty_like(x)
    launch.apply(tiles.gradient, x, dy, dx, gain, *term[1:])
    return dx


def _rest(stats: Moments) -> Tensor:
    """What a kernel gets for a rest that it does not read."""
    return stats.mean if stats.rest is None else stats.rest


def partners(order: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Whose style each takes, and who takes each one's: `takers` from its start to the next."""
    n = len(order)
    # Selected for the check of its bounds.
    order = torch.arange(n, device=order.device).index_select(0, order)
    takers = order.argsort(stable=True)
    starts = torch.searchsorted(order[takers], torch.arange(n + 1, device=order.device))
    table = torch.cat([order, takers, starts]).int()
    return to_device(table, device).split([n, n, n + 1])


def exchange(
    x: Tensor, partners: tuple[Tensor, ...], dim: int, content: Moments, style: Moments
) -> Tensor:
    launch, y = _Launch(x, content.box), torch.empty_like(x)
    numbers = (content.mean, content.std, _rest(content), style.mean, style.std)
    flags: dict[str, Any] = {"ACROSS": dim == 0, "RESTED": content.rest is not None}
    launch.apply(tiles.exchange, x, y, partners[0], *numbers, boxes=launch.box, **flags)
    return y


def exchange_gradient(
    x: Tensor,
    dy: Tensor,
    partners: tuple[Tensor, ...],
    dim: int,
    content: Moments,
    style: Moments,
) -> Tensor:
    sums = products(x, dy, content.box, content.mean)
    launch, dx = _Launch(x, content.box), torch.empty_like(x)
    numbers = (content.mean, content.std, _rest(content), style.mean, style.std, _rest(style))
    counts = (*_counts(x, content.box), *_counts(x, style.box))
    boxes = (*launch.box, *(style.box or full_box(x)))
    flags: dict[str, Any] = {
        "ACROSS": dim == 0,
        "RESTED": content.rest is not None,
        "STYLED": content.box != style.box,
    }
    args = (x, dy, dx, *partners, *sums, *numbers, *counts)
    launch.apply(tiles.exchange_gradient, *args, boxes=boxes, **flags)
    return dx


def _over_batch(kernel: Any, x: Tensor, *args: Any, **flags: Any) -> None:
    block_c, block_b = BATCH_TILE
    batch, channels = x.shape[:2]
    with _on(x):
        kernel[(triton.cdiv(channels, block_c),)](
            *args, batch, channels, BLOCK_B=block_b, BLOCK_C=block_c, **flags
        )


def gated(x: Tensor, stats: Moments, gates: list[Gate]) -> tuple[Tensor, list[Gate]]:
    """SelfNorm's result, and its gates with the statistics that they were normalised by."""
    done = []
    for gate in gates:
        if gate.batch is not None:
            centre, variance = (torch.empty_like(gate.bias) for _ in range(2))
            running = (gate.mean, gate.variance, *gate.batch)
            args = (stats.mean, stats.std, gate.fc, centre, variance, *running)
            _over_batch(tiles.batch_statistics, x, *args)
            gate = gate._replace(mean=centre, variance=variance)
        done.append(gate)
    launch, y = _Launch(x, None), torch.empty_like(x)
    numbers = (stats.mean, stats.std, _rest(stats))
    flags: dict[str, Any] = {"RESTED": stats.rest is not None, "TWO_SIDED": len(done) > 1}
    parameters = (*done[0][:5], *done[-1][:5], done[0].eps, done[-1].eps)
    launch.apply(tiles.gated, x, y, *numbers, *parameters, **flags)
    return y, done


def gate_gradient(
    x: Tensor, dy: Tensor, stats: Moments, gates: list[Gate], parameters: bool
) -> tuple[Tensor, list[Tensor | None]]:
    """The gradient of the map, and those of each gate's fc, weight and bias if wanted."""
    two_sided = len(gates) > 1
    weighted, plain = products(x, dy, None, stats.mean if two_sided else None)
    sums = (weighted, weighted if plain is None else plain)
    numbers = (*sums, stats.mean, stats.std, _rest(stats))
    found: list[Tensor | None] = []
    arguments: list[Tensor] = []
    for i, gate in enumerate(gates):
        grads = [torch.empty_like(p) for p in gate[:3]]
        if parameters or gate.batch is not None:
            flags = {
                "BATCH": gate.batch is not None,
                "OF_MEAN": i == 1,
                "RESTED": two_sided and stats.rest is not None,
            }
            args = (*numbers, *gate[:5], *grads, gate.eps)
            _over_batch(tiles.gate_sums, x, *args, **flags)
        found += grads if parameters else [None] * 3
        arguments += [*gate[:5], *grads[1:]]
    launch, dx = _Launch(x, None), torch.empty_like(x)
    arguments = arguments if two_sided else arguments * 2
    tail = (gates[0].eps, gates[-1].eps, float(len(x)), *_counts(x, None))
    launch.apply(
        tiles.gated_gradient, x, dy, dx, *numbers, *arguments, *tail,
        G_BATCH=gates[0].batch is not None, F_BATCH=gates[-1].batch is not None,
        TWO_SIDED=two_sided, RESTED=stats.rest is not None,
    )  # fmt: skip
    return dx, found
