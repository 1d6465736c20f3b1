"""The shape of what is broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def broadcast_shape(*shapes: Sequence[int]) -> torch.Size:
    """The shape that all of them broadcast to: sizes of an axis, counted from the last, are equal or 1. Raises ValueError.

    ``torch.broadcast_shapes`` imports SymPy for it, seconds of CPU in each process.
    """
    rank = max(map(len, shapes))
    sizes = []
    for axis in zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        size = next((size for size in axis if size != 1), 1)
        if any(other not in (1, size) for other in axis):
            raise ValueError(f"shapes {', '.join(str(tuple(shape)) for shape in shapes)} do not broadcast")
        sizes.append(size)
    return torch.Size(sizes)
