"""What a runtime may fold into the weights of a layer, and whether the weights that it executes are those."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, behind, copied
from pipeline.onnx.executed.views import blocks

UNIT, TINY = 2.0**-24, 2.0**-126
BLOCKS = (16, 8, 4)
NORM_ROUNDINGS = 5
"""``var + eps``, its root, the quotient, and two more."""


@dataclass(frozen=True)
class Folded:
    """``y = scale * z + shift`` behind a layer's output ``z``, in float64, and what folding it in float32 may err by."""

    scale: np.ndarray
    shift: np.ndarray
    size: np.ndarray
    """The sum of the absolute values that the shift is made of."""
    roundings: int = 0

    def times(self, factor: np.ndarray, roundings: int = 1) -> Folded:
        """One scale more, nearer to the layer."""
        return replace(self, scale=np.asarray(self.scale * factor), roundings=self.roundings + roundings)

    def plus(self, term: np.ndarray, size: np.ndarray | None = None) -> Folded:
        """One constant more, nearer to the layer."""
        size = np.abs(term) if size is None else size
        return replace(
            self,
            shift=np.asarray(self.shift + self.scale * term),
            size=np.asarray(self.size + np.abs(self.scale) * size),
            roundings=self.roundings + 1,
        )

    @property
    def error(self) -> float:
        """``gamma(n, u)``."""
        n = self.roundings + 1
        return n * UNIT / (1 - n * UNIT) * (1 + 2.0**-20)


NOTHING = Folded(np.ones(()), np.zeros(()), np.zeros(()))


def folded(graph: Graph, value: str) -> tuple[Folded, str, GraphOperator | None]:
    """The scales and constants from a value back to the operator before them, where each reads a value that nothing else reads.

    They are BatchNormalization, Mul, Add and Sub with constants: those whose folding ``bounds/float32_sites.py`` charges.
    """
    so_far = NOTHING
    while True:
        value, own = behind(graph, value)
        step = None if own is None or own.outputs[0] != value else _step(graph, own, so_far)
        if step is None or not _sole(graph, step[1]):
            return so_far, value, own
        so_far, value = step


def _sole(graph: Graph, value: str) -> bool:
    """Whether a value, and what it is a copy of, have one reader."""
    inner: str | None = value
    while inner is not None:
        if graph.readers[inner] != 1:
            return False
        inner = copied(graph, inner)
    return True


def _step(graph: Graph, own: GraphOperator, so_far: Folded) -> tuple[Folded, str] | None:
    if own.type == "BatchNormalization":
        return _norm(graph, own, so_far)
    if own.type not in ("Mul", "Add", "Sub") or len(own.inputs) != 2:
        return None
    for value, other in (own.inputs, own.inputs[::-1]):
        if other in graph.constants and value not in graph.constants and graph.constants[other].dtype == np.float32:
            constant = graph.constants[other].astype(np.float64)
            if own.type == "Mul":
                return so_far.times(constant), value
            if own.type == "Add":
                return so_far.plus(constant), value
            return (so_far.plus(-constant), value) if value == own.inputs[0] else None
    return None


def _norm(graph: Graph, own: GraphOperator, so_far: Folded) -> tuple[Folded, str] | None:
    rank = graph.rank(own.inputs[0])
    if any(v not in graph.constants for v in own.inputs[1:5]) or len([v for v in own.outputs if v]) > 1:
        return None
    scale, shift, mean, var = (graph.constants[v].astype(np.float64) for v in own.inputs[1:5])
    if rank is None:
        return None
    shape = (-1, *(1,) * (rank - 2))
    with np.errstate(all="ignore"):
        factor = (scale / np.sqrt(var + float(np.float32(own.attributes["epsilon"])))).reshape(shape)
    term, size = shift.reshape(shape) - factor * mean.reshape(shape), np.abs(shift).reshape(shape)
    # The constants come behind the scale: what is added, then what multiplies.
    return so_far.plus(term, size + np.abs(factor * mean.reshape(shape))).times(factor, NORM_ROUNDINGS), own.inputs[0]


def by_channel(array: np.ndarray, channels: int, rank: int, axis: int) -> np.ndarray | None:
    """An array that varies along one axis of ``rank`` alone, as a vector; None where it varies along others."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for i, size in enumerate(shape) if i != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))


def near(got: np.ndarray, wanted: np.ndarray, size: np.ndarray, error: float) -> bool:
    """``|got - wanted| <= gamma |size| + tiny``, at every entry."""
    with np.errstate(all="ignore"):
        return bool((np.abs(got.astype(np.float64) - wanted) <= error * np.abs(size) + TINY).all())


def blocked_filters(got: np.ndarray, wanted: np.ndarray, error: float) -> tuple[bool, int] | None:
    """Whether filters in blocks are the wanted ones: ``(whether inputs are in blocks too, channels in a block)``, or None."""
    for block in BLOCKS:
        for inputs in (True, False):
            laid = blocks(wanted, block, inputs=inputs)
            if laid.size == got.size and near(got.reshape(-1), laid, laid, error):
                return inputs, block
    return None


def padded(vector: np.ndarray, size: int) -> np.ndarray:
    """A vector with zeros up to whole blocks."""
    return np.concatenate([vector, np.zeros(max(0, size - vector.size))])


def held(at: Matching, value: str) -> np.ndarray | None:
    """An executed constant, None for what is computed."""
    return at.executed.constants[value] if value and at.executed.constants.fixed(value) else None
