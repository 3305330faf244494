"""The layers' kernels on CUDA, in Triton: one launch reduces, one applies, each way.

The kernels are in :mod:`cnsn.kernels.tiles` and its neighbours. They take any layout: strides of
samples, channels and positions say where an element lies. Maps are dense, so that Triton sees what
lies side by side and loads 16 bytes at a time. Boxes are ordinary numbers that it must not
specialise on, so a new box needs no compilation. Sums of squares merge tiles around their own means
(Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances"), in float32.

The functions are those of :mod:`cnsn.kernels.cpu`, and SelfNorm's gates; the arithmetic is tested
with Triton's interpreter.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from cnsn.kernels import tile_exchange, tile_gates, tile_sums, tiles
from cnsn.kernels.launch import Launch, counts, over_batch, run
from cnsn.kernels.regions import Box, Exchange, Gate, Moments, Term, full_box, to_device

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


def moments(x: Tensor, box: Box | None, eps: float) -> Moments:
    launch = Launch(x, box)
    n, freedom = counts(x, box)
    mean, std, rest = (launch.numbers(launch.parts) for _ in range(3))
    whole = launch.parts == 1
    launch.reduce(tile_sums.moments, x, mean, std, rest, tail=(freedom, eps), WHOLE=whole)
    mean, std, rest = _merged(launch, mean, std, rest, (int(n), freedom, eps))
    return Moments(box, mean, std, rest if x.dtype == mean.dtype else None)


def _merged(
    launch: Launch, mean: Tensor, squares: Tensor, rest: Tensor, tail: tuple[float, ...]
) -> tuple[Tensor, ...]:
    if launch.parts == 1:
        return mean[0], squares[0], rest[0]
    results = tuple(launch.numbers() for _ in range(3))
    numbers, size = mean[0].numel(), launch.chunk * launch.blocks["BLOCK_P"]
    args = (mean, squares, rest, *results, numbers, launch.parts, size, *tail)
    run(tile_sums.merge, (triton.cdiv(numbers, 256),), mean, *args, BLOCK=256)
    return results


def affine(
    x: Tensor, box: Box | None, mean: Tensor | None, gain: Tensor, shift: Tensor | None
) -> Tensor:
    launch, y = Launch(x, box), torch.empty_like(x)
    centred = mean is not None
    args = (x, y, mean if centred else gain, gain, shift if centred else gain)
    launch.apply(tiles.affine, *args, boxes=launch.box, CENTRED=centred)
    return y


def products(
    x: Tensor, dy: Tensor, box: Box | None, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    launch, centred = Launch(x, box), mean is not None
    sums = launch.numbers(1 + centred, launch.parts)
    centre = mean if centred else sums
    launch.reduce(tile_sums.products, x, dy, centre, sums[0], sums[-1], CENTRED=centred)
    sums = sums[:, 0] if launch.parts == 1 else sums.sum(1)
    return sums[0], sums[1] if centred else None


def gradient(x: Tensor, dy: Tensor, gain: Tensor, term: Term) -> Tensor:
    launch, dx = Launch(x, None), torch.empty_like(x)
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


def exchange(x: Tensor, swap: Exchange) -> Tensor:
    partners, dim, content, style = swap
    launch, y = Launch(x, content.box), torch.empty_like(x)
    numbers = (content.mean, content.std, _rest(content), style.mean, style.std)
    flags: dict[str, Any] = {"ACROSS": dim == 0, "RESTED": content.rest is not None}
    launch.apply(tile_exchange.exchange, x, y, partners[0], *numbers, boxes=launch.box, **flags)
    return y


def exchange_gradient(x: Tensor, dy: Tensor, swap: Exchange) -> Tensor:
    partners, dim, content, style = swap
    sums = products(x, dy, content.box, content.mean)
    launch, dx = Launch(x, content.box), torch.empty_like(x)
    numbers = (content.mean, content.std, _rest(content), style.mean, style.std, _rest(style))
    positions = (*counts(x, content.box), *counts(x, style.box))
    boxes = (*launch.box, *(style.box or full_box(x)))
    flags: dict[str, Any] = {
        "ACROSS": dim == 0,
        "RESTED": content.rest is not None,
        "STYLED": content.box != style.box,
    }
    args = (x, dy, dx, *partners, *sums, *numbers, *positions)
    launch.apply(tile_exchange.exchange_gradient, *args, boxes=boxes, **flags)
    return dx


def gated(x: Tensor, stats: Moments, gates: list[Gate]) -> tuple[Tensor, list[Gate]]:
    """SelfNorm's result, and its gates with the statistics that they were normalised by."""
    done = []
    for gate in gates:
        if gate.batch is not None:
            centre, variance = (torch.empty_like(gate.bias) for _ in range(2))
            running = (gate.mean, gate.variance, *gate.batch)
            args = (stats.mean, stats.std, gate.fc, centre, variance, *running)
            over_batch(tile_gates.batch_statistics, x, *args)
            gate = gate._replace(mean=centre, variance=variance)
        done.append(gate)
    launch, y = Launch(x, None), torch.empty_like(x)
    numbers = (stats.mean, stats.std, _rest(stats))
    flags: dict[str, Any] = {"RESTED": stats.rest is not None, "TWO_SIDED": len(done) > 1}
    parameters = (*done[0][:5], *done[-1][:5], done[0].eps, done[-1].eps)
    launch.apply(tile_gates.gated, x, y, *numbers, *parameters, **flags)
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
            over_batch(tile_gates.gate_sums, x, *args, **flags)
        found += grads if parameters else [None] * 3
        arguments += [*gate[:5], *grads[1:]]
    launch, dx = Launch(x, None), torch.empty_like(x)
    arguments = arguments if two_sided else arguments * 2
    tail = (gates[0].eps, gates[-1].eps, float(len(x)), *counts(x, None))
    launch.apply(
        tile_gates.gated_gradient, x, dy, dx, *numbers, *arguments, *tail,
        G_BATCH=gates[0].batch is not None, F_BATCH=gates[-1].batch is not None,
        TWO_SIDED=two_sided, RESTED=stats.rest is not None,
    )  # fmt: skip
    return dx, found
