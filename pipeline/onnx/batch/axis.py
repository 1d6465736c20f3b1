"""The batch axis of one value: which axis it is, and which other axes are folded into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.onnx.ir import Node


class Untraceable(Exception):
    """Why a batch axis, or a value that depends on the batch size, cannot be tracked any further."""


@dataclass(frozen=True)
class BatchAxis:
    """An axis of ``outer * N * inner`` entries, N the batch size: sample ``n`` has those at ``(o N + n) inner + i``."""

    axis: int
    outer: int = 1
    inner: int = 1

    def with_axis(self, axis: int) -> BatchAxis:
        """The same entries in another axis."""
        return replace(self, axis=axis)

    @property
    def one_entry_per_sample(self) -> bool:
        """Whether no other axis is folded into this one."""
        return self.outer == self.inner == 1

    def sample_shape(self, shape: Sequence[int], samples: int) -> tuple[int, ...]:
        """The shape at a batch of one of a value that has ``shape`` at a batch of ``samples``. Raises Untraceable."""
        entries = self.outer * self.inner
        if not self.axis < len(shape) or shape[self.axis] != samples * entries:
            raise Untraceable("its shape is no product of the number of samples")
        return tuple(entries if i == self.axis else d for i, d in enumerate(shape))


def axis_of(node: Node, default: int, rank: int) -> int:
    """The attribute ``axis``, counted from the front."""
    return int(node.attributes.peek("axis", default)) % rank


def reshape_batch_axis(
    shape: Sequence[int], batch: BatchAxis | None, target: Sequence[tuple[int, int]], allowzero: bool = False
) -> tuple[BatchAxis | None, tuple[int, ...]]:
    """The batch axis behind a Reshape, and the shape of its result, both shapes at a batch of one.

    ``shape``: of the input; ``target``: each entry as ``(base, slope)``, which stands for ``base + slope N``; 0 copies a size,
    -1 is inferred. Raises Untraceable where the batch is no longer a factor of one axis.
    """
    entries = [
        (shape[i], batch is not None and batch.axis == i) if (b, s) == (0, 0) and not allowzero else (b, None)
        for i, (b, s) in enumerate(target)
    ]
    sizes: list[tuple[int, bool]] = []
    for (size, from_batch), (base, slope) in zip(entries, target, strict=True):
        if slope and (base or slope < 0):
            raise Untraceable("a size of its target is another function of the batch size than a multiple of it")
        sizes.append((slope, True) if slope else (size, bool(from_batch)))
    total, product = math.prod(shape), math.prod(size for size, _ in sizes if size != -1)
    has_batch = any(is_batch for _, is_batch in sizes)
    if any(size == -1 for size, _ in sizes):
        if not product or total % product:
            raise Untraceable("its target does not fit the entries of one sample")
        # The inferred size holds the batch where no other one does.
        sizes = [
            (total // product, batch is not None and not has_batch) if s == -1 else (s, is_batch)
            for s, is_batch in sizes
        ]
    shape_after = tuple(size for size, _ in sizes)
    axes = [i for i, (_, is_batch) in enumerate(sizes) if is_batch]
    if math.prod(shape_after) != total or len(axes) != (batch is not None):
        raise Untraceable("its target names no axis for the samples, or fits one number of samples alone")
    if batch is None:
        return None, shape_after
    # In row-major order the factors before the batch must stay before it, and those behind it behind.
    (axis,) = axes
    slower = math.prod(shape[: batch.axis]) * batch.outer
    before = math.prod(shape_after[:axis])
    outer = slower // before if before else 0
    if not outer or slower % before or shape_after[axis] % outer:
        raise Untraceable("it mixes the samples with other axes beyond following")
    return BatchAxis(axis, outer, shape_after[axis] // outer), shape_after
