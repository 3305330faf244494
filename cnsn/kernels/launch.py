"""How the Triton kernels are launched: tiles and grids for a map, on the device it lies on."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import triton
from torch import Tensor

from cnsn.kernels.regions import Box, full_box, is_channels_last, positions

__all__ = ["Launch", "counts", "over_batch", "run"]

# Elements of a tile, and how many programs keep a GPU busy.
TILE = 2048
PROGRAMS = 2048
# Of a grid's second dimension.
GRID = 65535
# Channels and samples that a program reduces over the batch.
BATCH_TILE = (8, 128)


class Launch:
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
        """A kernel that reads the map, or its box, and leaves numbers of each part."""
        args = (*args, *self.where, *self.box, self.chunk, *tail)
        run(kernel, (self.rows, self.parts), self.x, *args, **flags, **self.boxed)

    def apply(self, kernel: Any, *args: Any, boxes: tuple[int, ...] = (), **flags: Any) -> None:
        """A kernel that writes a map."""
        sizes, args = self.boxed if boxes else self.blocks, (*args, *self.where, *boxes)
        run(kernel, (self.rows, self.tiles), self.x, *args, **flags, **sizes)


def run(kernel: Any, grid: tuple[int, ...], x: Tensor, *args: Any, **flags: Any) -> None:
    """`kernel` on the device of `x`."""
    with _on(x):
        kernel[grid](*args, **flags)


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def counts(x: Tensor, box: Box | None) -> tuple[float, float]:
    """Positions n of a box, and max(n - 1, 1)."""
    n = positions(x, box)
    return float(n), float(max(n - 1, 1))


def over_batch(kernel: Any, x: Tensor, *args: Any, **flags: Any) -> None:
    """A kernel on the (B, C) numbers of `x`, each of whose programs sees the whole batch."""
    block_c, block_b = BATCH_TILE
    batch, channels = x.shape[:2]
    grid, flags = (triton.cdiv(channels, block_c),), flags | {"BLOCK_B": block_b}
    run(kernel, grid, x, *args, batch, channels, BLOCK_C=block_c, **flags)
