"""Memory of large tensors: kept by the process, where glibc would give it back and fault it in again; or refused."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SIZES = (1 << 30, 1 << 25)
"""Block sizes to ask for: before version 2.35 glibc takes no more than the second."""

REFUSALS = (
    *("can't allocate memory", "not enough memory", "could not create a primitive"),
    *("Failed to allocate memory", "std::bad_alloc", "Cannot allocate memory"),
    *("failed to map segment", "Failed to serialize proto"),
)
"""What PyTorch, oneDNN, ONNX Runtime, the loader and protobuf say where there is no memory, in errors without a type for it."""


def keep_large_blocks() -> bool:
    """Let glibc reuse blocks of up to 1 GiB; False where there is no glibc to ask.

    On a CPU a training step and a batch of linear bounds take a fifth less time by it. It is a setting of the whole process,
    so programs call it and the library never does.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in SIZES) and bool(mallopt(M_TRIM_THRESHOLD, SIZES[0]))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the machine's or a device's refusal of memory."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or any(words in str(error) for words in REFUSALS)
