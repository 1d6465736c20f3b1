"""Matrix products with what ONNX Runtime computes in the same kernel: constants, a residual, an activation, transposes, scales.

A scale that stands before a product is executed behind it (FusedMatMul's alpha). That is charged in
``bounds/float32_sites.py``, for products with a constant matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.onnx.executed.activations import before_activation, other_activation
from pipeline.onnx.executed.folding import Folded, by_channel, folded, held, near
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.layers import with_residual
from pipeline.onnx.executed.matching import Matching, Pair, Steps, behind, rewriting
from pipeline.onnx.executed.views import AS_IT_IS, FLAT, SWAPPED

JOINED = 4
RANGE = 120.0
"""Scales that are joined may be multiplied in any order: the binary exponents of all together stay within this, and their
number within what ``bounds/float32_sites.py`` charges."""


@rewriting("Gemm", "com.microsoft.FusedGemm")
def general_product(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """``activation(alpha A B + beta C)`` with the scales and constants behind a Gemm or a MatMul by a constant matrix.

    Of more than two axes, the file's MatMul is executed on rows: both sides are the same in row-major order.
    """
    if pair.view not in (AS_IT_IS, FLAT):
        return False
    file = before_activation(at, own, pair.file)
    if file is None:
        return at.because(own, other_activation(own))
    addend = own.input(2) if own.input(2) and held(at, own.input(2)) is None else ""
    for start, residual in with_residual(at, file, addend):
        scales, _, layer = folded(at.file, start)
        if layer is None or layer.type not in ("Gemm", "MatMul") or (pair.view.flat and layer.type == "Gemm"):
            continue
        theirs, mine = _Gemm(layer), _Gemm(own)
        if mine.alpha != theirs.alpha or not _matrices(at, mine, theirs, scales):
            continue
        if layer.type == "Gemm" and not (scales.scale == 1).all():
            continue  # nothing is known to fold a scale into a Gemm
        if residual is None and not _constants(at, mine, theirs, scales):
            continue
        if residual is not None and (mine.beta != 1.0 or theirs.c or scales.roundings):
            continue
        data = Pair(mine.a, theirs.a, pair.view if mine.turned_a == theirs.turned_a else SWAPPED)
        if pair.view.flat and data.view is SWAPPED:
            continue
        if (yield data) and (residual is None or (yield Pair(mine.c, residual, pair.view))):
            return True
    return False


class _Gemm:
    """The operands of a product in one form."""

    def __init__(self, own: GraphOperator):
        get = own.attributes.get
        self.a, self.b, self.c = own.input(0), own.input(1), own.input(2)
        self.alpha, self.beta = (float(np.float32(get(name, 1.0))) for name in ("alpha", "beta"))
        self.turned_a, self.turned_b = bool(get("transA", 0)), bool(get("transB", 0))


def _matrices(at: Matching, mine: _Gemm, theirs: _Gemm, scales: Folded) -> bool:
    """Whether the executed matrix is the file's, each column by its scale."""
    got = held(at, mine.b)
    if got is None or theirs.b not in at.file.constants or got.ndim != 2 or at.file.constants[theirs.b].ndim != 2:
        return False
    got = got.T if mine.turned_b else got
    matrix = at.file.constants[theirs.b].astype(np.float64)
    matrix = matrix.T if theirs.turned_b else matrix
    scale = by_channel(scales.scale, matrix.shape[1], max(2, scales.scale.ndim), max(2, scales.scale.ndim) - 1)
    if scale is None or got.shape != matrix.shape:
        return False
    return (
        bool((got == matrix).all())
        if scales.roundings == 0
        else near(got, matrix * scale, matrix * scale, scales.error)
    )


def _constants(at: Matching, mine: _Gemm, theirs: _Gemm, scales: Folded) -> bool:
    """Whether ``beta C`` is the file's, scaled, with the constants behind it."""
    if theirs.c and theirs.c not in at.file.constants:
        return False
    got = mine.beta * (held(at, mine.c).astype(np.float64) if mine.c else np.zeros(()))  # type: ignore[union-attr]
    kept = theirs.beta * (at.file.constants[theirs.c].astype(np.float64) if theirs.c else np.zeros(()))
    wanted, size = kept * scales.scale + scales.shift, np.abs(kept * scales.scale) + scales.size
    try:
        got, wanted, size = np.broadcast_arrays(got, wanted, size)
    except ValueError:
        return False
    return near(got, wanted, size, scales.error)


@rewriting("Gemm", "com.microsoft.FusedGemm")
def computed_product(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """A Gemm of two computed matrices: the file's own, but for the activation behind it and transposes before it."""
    file = before_activation(at, own, pair.file)
    if file is None or not pair.view.plain or held(at, own.input(1)) is not None:
        return False
    _, layer = behind(at.file, file)
    if layer is None or layer.type not in ("Gemm", "MatMul"):
        return False
    mine, theirs = _Gemm(own), _Gemm(layer)
    if mine.alpha != theirs.alpha or bool(mine.c) != bool(theirs.c) or (mine.c and mine.beta != theirs.beta):
        return False
    pairs = [
        Pair(mine.a, theirs.a, AS_IT_IS if mine.turned_a == theirs.turned_a else SWAPPED),
        Pair(mine.b, theirs.b, AS_IT_IS if mine.turned_b == theirs.turned_b else SWAPPED),
    ]
    for wanted in [*pairs, *([Pair(mine.c, theirs.c)] if mine.c else [])]:
        if not (yield wanted):
            return False
    return True


@rewriting("MatMul", "com.microsoft.FusedMatMul")
def scaled_product(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """``alpha op(A) op(B)``: a MatMul with transposes and numbers multiplied in before and behind it."""
    if not pair.view.plain or own.attributes.get("transBatchA", 0) or own.attributes.get("transBatchB", 0):
        return False
    alpha = float(own.attributes.get("alpha", 1.0))
    for behind_it, layer in _scales(at.file, pair.file):
        if layer is None or layer.type != "MatMul":
            continue
        for (left, a), (right, b) in _both(at.file, layer):
            scales = [*behind_it, *left, *right]
            if not _product_is(alpha, scales):
                continue
            if scales and not _charged(at, own, layer, scales):
                return False
            views = [SWAPPED if own.attributes.get(name, 0) else AS_IT_IS for name in ("transA", "transB")]
            if (yield Pair(own.inputs[0], a, views[0])) and (yield Pair(own.inputs[1], b, views[1])):
                return True
    return False


def _charged(at: Matching, own: GraphOperator, layer: GraphOperator, scales: list[float]) -> bool:
    """Whether what scales may lose on the other side of a product is charged."""
    if not any(v in at.file.constants for v in layer.inputs):
        return at.because(own, "a scale is moved through a product of two computed values, whose range is not bounded")
    if len(scales) > JOINED:
        return at.because(own, f"more than {JOINED} scales are moved through a product")
    if sum(abs(float(np.log2(abs(s)))) if s else np.inf for s in scales) > RANGE:
        return at.because(own, f"scales with exponents beyond 2^{RANGE:g} together are moved through a product")
    return True


def _both(graph: Graph, layer: GraphOperator) -> Iterator[tuple[tuple[list[float], str], tuple[list[float], str]]]:
    for left in _inner(graph, layer.inputs[0]):
        for right in _inner(graph, layer.inputs[1]):
            yield left, right


def _inner(graph: Graph, value: str) -> Iterator[tuple[list[float], str]]:
    """A factor of a product as it stands, and with numbers that it was multiplied by taken off."""
    taken: list[float] = []
    while True:
        yield list(taken), value
        value, own = behind(graph, value)
        found = None if own is None else _number(graph, own)
        if found is None:
            return
        taken.append(found[0])
        value = found[1]


def _scales(graph: Graph, value: str) -> Iterator[tuple[list[float], GraphOperator | None]]:
    """What stands before a value, with numbers behind it taken off."""
    for taken, inner in _inner(graph, value):
        yield taken, behind(graph, inner)[1]


def _number(graph: Graph, own: GraphOperator) -> tuple[float, str] | None:
    """The number that an operator multiplies by, and what it multiplies."""
    if own.type not in ("Mul", "Div"):
        return None
    for value, other in (own.inputs, own.inputs[::-1])[: 1 if own.type == "Div" else 2]:
        if other in graph.constants and value not in graph.constants and graph.constants[other].dtype == np.float32:
            array = graph.constants[other]
            if array.size == 1 and array.ndim <= max(1, graph.rank(value) or 0):
                number = np.float32(array.reshape(-1)[0])
                with np.errstate(all="ignore"):
                    return float(np.float32(1) / number if own.type == "Div" else number), value
    return None


def _product_is(alpha: float, scales: list[float]) -> bool:
    """Whether alpha is their product, multiplied in float32 in some order."""
    exact = float(np.prod(np.asarray(scales, np.float64)))
    return abs(alpha - exact) <= 2 * (len(scales) + 1) * 2.0**-24 * abs(exact)
