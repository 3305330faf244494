"""A map a few samples at a time, for the kernels on CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from cnsn.kernels.regions import Box, at_least_float32, inside, is_channels_last

__all__ = ["Blocks"]

# Bytes of floats that a thread works on at a time: fewer calls weigh more than a nearer cache.
BLOCK_BYTES = 1 << 21

# Below so many numbers a matrix product with ones is faster than a sum.
SHORT = 64

Views = tuple[Tensor, ...]


class Blocks:
    """Maps a few samples at a time, as matrices with a row for each channel of each sample.

    A box is handled in lines of full width, which are contiguous, and weights of 1 and 0 say what
    of them is the box and what its edges. In channels_last, where the channels of a position are
    contiguous, blocks are (b, n, C) or, of a box, (b, h, w, C).
    """

    def __init__(self, x: Tensor, box: Box | None) -> None:
        self.box, self.last = box, is_channels_last(x)
        self.dtype = at_least_float32(x.dtype)
        batch, self.channels, _, self.width = x.shape
        last = (-1, 1, self.channels) if box is None else (-1, 1, 1, self.channels)
        self.column = last if self.last else (-1, 1)
        size = x[:1].numel() * self.dtype.itemsize
        # Whole samples for each thread: sums are shared out by sample, other operations by place,
        # and a thread should find in its cache what it wrote there before.
        self.threads = torch.get_num_threads()
        samples = min(batch, max(1, BLOCK_BYTES // size) * self.threads)
        self.step = samples if self.last else samples * self.channels
        sources = self.maps(x)
        self.memory = torch.empty(sources[0].shape, dtype=self.dtype, device=x.device)
        self.buffers = [self.memory[: len(block)] for block in sources]
        self.edges: Tensor | None = None
        if not self.last:
            self.ones = torch.ones(self.memory.shape[1], dtype=self.dtype, device=x.device)
            if box is not None and box[3] < self.width:
                lines = self.ones.view(-1, self.width)
                lines[:, : box[1]] = 0
                lines[:, box[1] + box[3] :] = 0
                self.edges = 1 - self.ones

    def maps(self, x: Tensor) -> Views:
        if self.last:
            x = inside(x, self.box).permute(0, 2, 3, 1)
            return (x.flatten(1, 2) if self.box is None else x).split(self.step)
        rows = x.view(len(x) * self.channels, -1)
        if self.box is not None:
            top, _, height, _ = self.box
            rows = rows[:, top * self.width : (top + height) * self.width]
        return rows.split(self.step)

    def columns(self, c: Tensor) -> Views:
        """(B, C) numbers, in shapes that multiply blocks."""
        return c.view(self.column).split(self.step)

    def results(self, c: Tensor) -> Views:
        """(B, C) numbers, in shapes that take sums of blocks."""
        return (c if self.last else c.view(-1)).split(self.step)

    def sum(self, block: Tensor, out: Tensor, buffer: Tensor) -> None:
        """Of each row, without the edges; with `out=` safe from autocast.

        The buffer, which may be the block itself, is used where there is more than one thread: a
        matrix product runs in one, which would take what the others have in their caches.
        """
        if self.last:
            torch.sum(block.view(len(block), -1, self.channels), 1, out=out)
        elif self.threads > 1 and self.edges is not None:
            torch.sum(torch.mul(block, self.ones, out=buffer), 1, out=out)
        elif self.threads > 1 or (self.edges is None and block.shape[1] >= SHORT):
            torch.sum(block, 1, out=out)
        else:
            torch.mv(block, self.ones, out=out)

    def floats(self, source: Tensor, buffer: Tensor) -> Tensor:
        """Of a map, fit for a sum; in the buffer where they have to be copied."""
        fit = source.dtype == self.dtype and (self.box is None or not self.last)
        return source if fit else buffer.copy_(source)

    def centre(self, source: Tensor, mean: Tensor, buffer: Tensor) -> Tensor:
        """``source - mean``, in the buffer."""
        source = source if source.dtype == self.dtype else buffer.copy_(source)
        return torch.sub(source, mean, out=buffer)

    def scale(self, block: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """``block * gain + shift``, in place."""
        if self.last:
            return torch.addcmul(shift, block, gain, out=block)
        # addcmul is not vectorised where two operands are broadcast along the inner dimension.
        return block.mul_(gain).add_(shift)

    def direct(self, out: Tensor) -> bool:
        """Whether blocks may be computed where they belong, without the buffer."""
        return self.edges is None and out.dtype == self.dtype

    def put(self, block: Tensor, base: Tensor, out: Tensor) -> None:
        """Into `out`, with `base` at the edges; uses up the block."""
        if self.edges is None:
            out.copy_(block)
        elif out.dtype == self.dtype:
            torch.addcmul(block.mul_(self.ones), base, self.edges, out=out)
        else:
            out.copy_(block.mul_(self.ones).addcmul_(base.to(self.dtype), self.edges))
