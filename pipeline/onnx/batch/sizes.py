"""Values computed from shapes, as functions of the number of samples N: what is the same at a few N may differ at another.

An entry is ``base + slope N``; a value may have an axis that N samples share, ``n`` of which adds ``n step``. Whatever an
operator makes of these that is no such function again has no value here, and may reach neither data nor shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.onnx.batch.place import Lost, Place
from pipeline.onnx.ir import Node

LARGEST = 1 << 53
SAMPLES = 1 << 20
"""Up to so many the numbers that an operator compares, divides or converts are held exactly by their type."""


@dataclass(frozen=True, eq=False)
class Sized:
    """``base + slope N`` in each entry; along ``axis``, if it has one, N times as many, of which sample ``n`` adds ``n step``.

    All three arrays have the shape of one sample's share, ``k`` entries along ``axis``, and sample ``n`` has those from ``n k``.
    """

    base: np.ndarray
    slope: np.ndarray
    axis: int | None
    step: np.ndarray

    @classmethod
    def of(cls, base: Any, slope: Any = 0, axis: int | None = None, step: Any = 0) -> Sized:
        base = np.asarray(base)
        wide = [np.broadcast_to(np.asarray(v), base.shape) for v in (slope, step)]
        varies = any(part.any() for part in wide)
        for part in (base, *wide):
            if varies and part.size and not np.abs(part.astype(np.float64)).max() < LARGEST:
                raise Lost("of numbers too large to be followed")
        made = cls(base, wide[0], axis, wide[1])
        if base.dtype.kind == "f":
            made.require_exact()
        return made

    @property
    def constant(self) -> bool:
        """Whether neither its shape nor any entry depends on N."""
        return self.axis is None and not self.slope.any()

    @property
    def alike(self) -> bool:
        """Whether every sample has the same, whatever N."""
        return not self.slope.any() and not self.step.any()

    def require_exact(self) -> None:
        """Raise Lost where an entry that depends on N is not held exactly by its type for up to ``SAMPLES`` samples.

        Sums and products of whole numbers that overflow are right again where the excess is gone; nothing else is.
        """
        base, slope, step = (part.astype(np.float64) for part in (self.base, self.slope, self.step))
        varies = (slope != 0) | (step != 0)
        if self.base.dtype.kind == "f":
            limit = 2.0 ** (np.finfo(self.base.dtype).nmant + 1)
            whole = all((part == np.rint(part))[varies].all() for part in (base, slope, step))
        else:
            limit, whole = float(np.iinfo(self.base.dtype).max) if self.base.dtype.kind in "iu" else 1.0, True
        size = np.abs(base) + SAMPLES * (np.abs(slope) + np.abs(step))
        if not whole or (size[varies] > limit).any():
            raise Lost(f"a number that depends on the batch size may be rounded, or overflow {self.base.dtype}")

    @property
    def place(self) -> Place | None:
        return None if self.axis is None else Place(self.axis, 1, self.base.shape[self.axis])

    def is_at(self, samples: int, seen: np.ndarray) -> bool:
        """Whether it is what was measured with so many samples."""
        one = self.base + self.slope * samples if self.slope.any() else self.base
        if self.axis is not None:
            one = np.concatenate(
                [one + self.step * n if n and self.step.any() else one for n in range(samples)], self.axis
            )
        return one.shape == seen.shape and bool(np.array_equal(one, seen, equal_nan=seen.dtype.kind == "f"))

    def each(self, change: Callable[[np.ndarray], np.ndarray], axis: int | None = None) -> Sized:
        """The same rearrangement of all three."""
        return Sized.of(change(self.base), change(self.slope), axis, change(self.step))

    def terms(self) -> list[tuple[Any, int]]:
        """``(base, slope)`` of every entry of a value without an axis of samples."""
        if self.axis is not None:
            raise Lost("of an entry for each sample")
        return list(zip(self.base.reshape(-1).tolist(), self.slope.reshape(-1).tolist(), strict=True))


Evaluation = Callable[[Node, Sequence["Sized | None"]], Sized]
_EVALUATIONS: dict[str, Evaluation] = {}


def evaluates(*names: str) -> Callable[[Evaluation], Evaluation]:
    def register(evaluation: Evaluation) -> Evaluation:
        _EVALUATIONS.update(dict.fromkeys(names, evaluation))
        return evaluation

    return register


def evaluated(node: Node, args: Sequence[Sized | None]) -> Sized:
    """The one output of an operator on sized values. Raises Lost where it cannot be said for every N."""
    if node.op_type not in _EVALUATIONS or len(node.outputs) != 1:
        raise Lost("what it makes of the batch size is not known for every batch size")
    return _EVALUATIONS[node.op_type](node, args)


def shape_of(shape: Sequence[int], place: Place | None) -> Sized:
    """The shape of a value; ``shape`` is that of one with any number of samples, of which ``place`` says where they are."""
    rows = [0 if place is not None and i == place.axis else d for i, d in enumerate(shape)]
    slopes = [place.outer * place.inner if place is not None and i == place.axis else 0 for i in range(len(shape))]
    return Sized.of(np.array(rows, np.int64), np.array(slopes, np.int64))
