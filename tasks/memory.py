"""How the C library hands out memory: apart, for benchmarks that need no command line."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory: mapping each large tensor anew halves the speed on CPU."""
    m_mmap_max, m_trim_threshold = -4, -1  # of glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
