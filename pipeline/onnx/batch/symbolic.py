"""Values computed from shapes, as affine functions of the batch size N: measuring them at a few N would not prove them.

An entry is ``base + slope N``; a value may have a batch axis, along which sample ``n`` adds ``n step``. A result of an operator
that is no such function is untraceable, and may reach neither data nor shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.onnx.batch.axis import BatchAxis, Untraceable
from pipeline.onnx.ir import Node

LARGEST = 1 << 53
SAMPLES = 1 << 20
"""Up to this batch size, numbers that an operator compares, divides or converts must be exact in their type."""


@dataclass(frozen=True, eq=False)
class Symbolic:
    """``base + slope N`` in each entry; along ``axis``, if there is one, sample ``n`` has ``base + slope N + n step``.

    All three arrays have the value's shape at N = 1; with ``k`` entries along ``axis``, those of sample ``n`` begin at ``n k``.
    """

    base: np.ndarray
    slope: np.ndarray
    axis: int | None
    step: np.ndarray

    @classmethod
    def of(cls, base: Any, slope: Any = 0, axis: int | None = None, step: Any = 0) -> Symbolic:
        base = np.asarray(base)
        parts = [np.broadcast_to(np.asarray(v), base.shape) for v in (slope, step)]
        varies = any(part.any() for part in parts)
        for part in (base, *parts):
            if varies and part.size and not np.abs(part.astype(np.float64)).max() < LARGEST:
                raise Untraceable("of numbers too large to be followed")
        result = cls(base, parts[0], axis, parts[1])
        if base.dtype.kind == "f":
            result.require_exact()
        return result

    @property
    def constant(self) -> bool:
        """Whether neither its shape nor any entry depends on N."""
        return self.axis is None and not self.slope.any()

    @property
    def uniform(self) -> bool:
        """Whether every sample has the same entries, whatever N."""
        return not self.slope.any() and not self.step.any()

    def require_exact(self) -> None:
        """Raise Untraceable where an entry that depends on N is not exact in its type for every N up to ``SAMPLES``.

        Sums and products of integers are not checked: they are exact modulo 2^64, so that an overflow on the way cancels.
        """
        base, slope, step = (part.astype(np.float64) for part in (self.base, self.slope, self.step))
        varies = (slope != 0) | (step != 0)
        if self.base.dtype.kind == "f":
            limit = 2.0 ** (np.finfo(self.base.dtype).nmant + 1)
            integral = all((part == np.rint(part))[varies].all() for part in (base, slope, step))
        else:
            limit, integral = float(np.iinfo(self.base.dtype).max) if self.base.dtype.kind in "iu" else 1.0, True
        size = np.abs(base) + SAMPLES * (np.abs(slope) + np.abs(step))
        if not integral or (size[varies] > limit).any():
            raise Untraceable(f"a number that depends on the batch size may be rounded, or overflow {self.base.dtype}")

    @property
    def batch_axis(self) -> BatchAxis | None:
        return None if self.axis is None else BatchAxis(self.axis, 1, self.base.shape[self.axis])

    def equals(self, samples: int, measured: np.ndarray) -> bool:
        """Whether it equals a value that was measured with so many samples."""
        value = self.base + self.slope * samples if self.slope.any() else self.base
        if self.axis is not None:
            value = np.concatenate(
                [value + self.step * n if n and self.step.any() else value for n in range(samples)], self.axis
            )
        return value.shape == measured.shape and bool(
            np.array_equal(value, measured, equal_nan=measured.dtype.kind == "f")
        )

    def map(self, change: Callable[[np.ndarray], np.ndarray], axis: int | None = None) -> Symbolic:
        """``change``, which is linear, applied to all three arrays."""
        return Symbolic.of(change(self.base), change(self.slope), axis, change(self.step))

    def terms(self) -> list[tuple[Any, int]]:
        """``(base, slope)`` of every entry. Raises Untraceable for a value with a batch axis."""
        if self.axis is not None:
            raise Untraceable("of an entry for each sample")
        return list(zip(self.base.reshape(-1).tolist(), self.slope.reshape(-1).tolist(), strict=True))

    def shape_at_one(self) -> tuple[list[int], int | None]:
        """The shape that it states at N = 1, and which size is that of the batch.

        Raises Untraceable unless one size at most depends on N, as a multiple of it.
        """
        shape, axis = [], None
        for i, (base, slope) in enumerate(self.terms()):
            if slope and (base or slope < 0 or axis is not None):
                raise Untraceable("a size is another function of the batch size than a multiple of it")
            axis = i if slope else axis
            shape.append(int(slope or base))
        return shape, axis


Evaluation = Callable[[Node, Sequence["Symbolic | None"]], Symbolic]
_EVALUATIONS: dict[str, Evaluation] = {}


def evaluates(*names: str) -> Callable[[Evaluation], Evaluation]:
    """Register the decorated function as the evaluation of operators."""

    def register(evaluation: Evaluation) -> Evaluation:
        _EVALUATIONS.update(dict.fromkeys(names, evaluation))
        return evaluation

    return register


def evaluate(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    """The one output of an operator on symbolic values. Raises Untraceable where it is not known for every N."""
    if node.op_type not in _EVALUATIONS or len(node.outputs) != 1:
        raise Untraceable("what it makes of the batch size is not known for every batch size")
    return _EVALUATIONS[node.op_type](node, args)


def shape_of(shape: Sequence[int], batch: BatchAxis | None) -> Symbolic:
    """The shape of a value as a function of N; ``shape``: at any N, of which only the sizes beside ``batch`` are read."""
    bases = [0 if batch is not None and i == batch.axis else d for i, d in enumerate(shape)]
    slopes = [batch.outer * batch.inner if batch is not None and i == batch.axis else 0 for i in range(len(shape))]
    return Symbolic.of(np.array(bases, np.int64), np.array(slopes, np.int64))
