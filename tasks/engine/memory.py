"""Memory that is kept for the next step, and the format of feature maps."""

from __future__ import annotations

import ctypes
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "keep_freed_memory",
    "use_memory_format",
]

# Channels that oneDNN takes at a time where it has AVX-512; half of it elsewhere.
BLOCK = 16


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride: takes every n-th position, then convolves.

    oneDNN's own way to the gradient of its weights writes beyond its memory in channels_last, where
    the input has fewer channels than a block: gradients are wrong, or the process dies
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        x = input[..., ::rows, ::columns]
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


def use_memory_format(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the parameters of `network`, in place; their names and values stay as they are."""
    network.to(memory_format=memory_format)
    if memory_format != torch.channels_last:
        return
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_narrow(module):
            module.__class__ = PointwiseConv2d


def _is_narrow(conv: nn.Conv2d) -> bool:
    strided = conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.padding == (0, 0)
    return strided and conv.in_channels // conv.groups < BLOCK


def keep_freed_memory() -> None:
    """Let glibc keep freed memory: mapping each large tensor anew halves the speed on CPU."""
    m_mmap_max, m_trim_threshold = -4, -1  # of glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
