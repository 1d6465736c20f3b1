"""The memory of large tensors: kept for reuse instead of returned to the system, or returned at once, by settings of glibc."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SIZES = (1 << 30, 1 << 25)
"""Block sizes in bytes to ask for: before version 2.35 glibc takes no more than the second."""
LARGE = 1 << 20
"""Blocks of this many bytes and more are returned at once where memory is scarce."""


def keep_large_blocks() -> bool:
    """Let glibc reuse blocks of up to 1 GiB; False where there is no glibc.

    On a CPU a training step and a batch of linear bounds take a fifth less time. The setting is the whole process's, so that
    programs call this and the library never does.
    """
    return _set(*SIZES, trim=SIZES[0])


def give_back_large_blocks() -> bool:
    """Let glibc return every large block when it is freed, so that the process holds no more than its tensors.

    Blocks kept for reuse leave holes between them, up to as much again. Called where the user sets a budget of memory.
    """
    return _set(LARGE, trim=LARGE)


def _set(*sizes: int, trim: int) -> bool:
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in sizes) and bool(mallopt(M_TRIM_THRESHOLD, trim))
