"""Scales and constants that a runtime folds into the weights of a layer, and whether the executed weights match them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.floating_point import TINY32, U32
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, copy_source, skip_copies
from pipeline.onnx.executed.views import blocks

BLOCKS = (16, 8, 4)
NORM_ROUNDINGS = 5
"""``var + eps``, its root, the quotient, and two more."""


@dataclass(frozen=True)
class ScaleShift:
    """``y = scale * z + shift`` behind a layer's output ``z``, in float64, and the float32 ``roundings`` of folding it."""

    scale: np.ndarray
    shift: np.ndarray
    size: np.ndarray
    """The sum of the absolute values of the terms of ``shift``."""
    roundings: int = 0

    def times(self, factor: np.ndarray, roundings: int = 1) -> ScaleShift:
        """With one more scale, nearer to the layer."""
        return replace(self, scale=np.asarray(self.scale * factor), roundings=self.roundings + roundings)

    def plus(self, term: np.ndarray, size: np.ndarray | None = None) -> ScaleShift:
        """With one more constant, nearer to the layer."""
        size = np.abs(term) if size is None else size
        return replace(
            self,
            shift=np.asarray(self.shift + self.scale * term),
            size=np.asarray(self.size + np.abs(self.scale) * size),
            roundings=self.roundings + 1,
        )

    @property
    def error(self) -> float:
        """A bound of the relative error of folding: ``gamma(n, u)``, n the roundings."""
        n = self.roundings + 1
        return n * U32 / (1 - n * U32) * (1 + 2.0**-20)

    def by_channel(self, channels: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Scale, shift and size as vectors along axis 1 of ``rank``; None where one varies along another axis."""
        scale, shift, size = (by_channel(v, channels, rank, 1) for v in (self.scale, self.shift, self.size))
        return None if scale is None or shift is None or size is None else (scale, shift, size)


NOTHING = ScaleShift(np.ones(()), np.zeros(()), np.zeros(()))


def scale_shift(graph: Graph, value: str) -> tuple[ScaleShift, str, GraphOperator | None]:
    """The scales and constants that lead to a value, the value before them, and the operator that computes that.

    They are BatchNormalization, Mul, Add and Sub with constants, whose folding ``bounds/float32_sites.py`` charges; each reads a
    value that nothing else reads.
    """
    tail = NOTHING
    while True:
        value, op = skip_copies(graph, value)
        step = None if op is None or op.outputs[0] != value else _step(graph, op, tail)
        if step is None or not _has_one_reader(graph, step[1]):
            return tail, value, op
        tail, value = step


def with_norm(graph: Graph, tail: ScaleShift, value: str) -> tuple[ScaleShift, str]:
    """``tail`` behind the BatchNormalization that computes a value, and what that reads; both as they are where there is none.

    What it reads may have other readers: of a BatchNormalization that is executed on its own nothing is folded into a layer.
    """
    op = graph.producer(value)
    step = _norm(graph, op, tail) if op is not None and op.type == "BatchNormalization" else None
    return step or (tail, value)


def _has_one_reader(graph: Graph, value: str) -> bool:
    """Whether a value, and each value that it copies, has one reader."""
    inner: str | None = value
    while inner is not None:
        if graph.readers[inner] != 1:
            return False
        inner = copy_source(graph, inner)
    return True


def _step(graph: Graph, op: GraphOperator, tail: ScaleShift) -> tuple[ScaleShift, str] | None:
    if op.type == "BatchNormalization":
        return _norm(graph, op, tail)
    if op.type not in ("Mul", "Add", "Sub") or len(op.inputs) != 2:
        return None
    for value, other in (op.inputs, op.inputs[::-1]):
        if other in graph.constants and value not in graph.constants and graph.constants[other].dtype == np.float32:
            constant = graph.constants[other].astype(np.float64)
            if op.type == "Mul":
                return tail.times(constant), value
            if op.type == "Add":
                return tail.plus(constant), value
            return (tail.plus(-constant), value) if value == op.inputs[0] else None
    return None


def _norm(graph: Graph, op: GraphOperator, tail: ScaleShift) -> tuple[ScaleShift, str] | None:
    rank = graph.rank(op.inputs[0])
    if any(v not in graph.constants for v in op.inputs[1:5]) or len([v for v in op.outputs if v]) > 1:
        return None
    scale, shift, mean, var = (graph.constants[v].astype(np.float64) for v in op.inputs[1:5])
    if rank is None:
        return None
    shape = (-1, *(1,) * (rank - 2))
    with np.errstate(all="ignore"):
        factor = (scale / np.sqrt(var + float(np.float32(op.attributes["epsilon"])))).reshape(shape)
    term, size = shift.reshape(shape) - factor * mean.reshape(shape), np.abs(shift).reshape(shape)
    # Nearest to the end first: the constant, then the scale.
    return tail.plus(term, size + np.abs(factor * mean.reshape(shape))).times(factor, NORM_ROUNDINGS), op.inputs[0]


def by_channel(array: np.ndarray, channels: int, rank: int, axis: int) -> np.ndarray | None:
    """An array that varies along ``axis`` of ``rank`` axes alone, as a vector of ``channels``; None for any other array."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))


def is_near(array: np.ndarray, expected: np.ndarray, size: np.ndarray, error: float) -> bool:
    """``|array - expected| <= error |size| + TINY32``, at every entry."""
    with np.errstate(all="ignore"):
        return bool((np.abs(array.astype(np.float64) - expected) <= error * np.abs(size) + TINY32).all())


def blocked_filters(array: np.ndarray, filters: np.ndarray, error: float) -> tuple[bool, int] | None:
    """``(whether inputs are blocked too, channels in a block)`` of the layout in which ``array`` is ``filters``; else None."""
    for block in BLOCKS:
        for inputs in (True, False):
            expected = blocks(filters, block, inputs=inputs)
            if expected.size == array.size and is_near(array.reshape(-1), expected, expected, error):
                return inputs, block
    return None


def pad_with_zeros(vector: np.ndarray, size: int) -> np.ndarray:
    """A vector with zeros appended up to ``size``."""
    return np.concatenate([vector, np.zeros(max(0, size - vector.size))])


def executed_constant(matching: Matching, value: str) -> np.ndarray | None:
    """An executed constant as an array, None for a value that is computed."""
    return matching.executed.constants[value] if value and matching.executed.constants.fixed(value) else None
