"""Matrix products with what ONNX Runtime computes in the same kernel: constants, a residual, an activation, transposes, scales.

A scale that stands before a product is executed behind it (FusedMatMul's alpha). That is charged in
``bounds/float32_sites.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.core.floating_point import JOINED
from pipeline.onnx.executed.activations import before_activation, other_activation
from pipeline.onnx.executed.folding import ScaleShift, by_channel, executed_constant, is_near, scale_shift
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.layers import with_residual
from pipeline.onnx.executed.matching import Matching, Pair, Steps, rewriting, skip_copies
from pipeline.onnx.executed.views import AS_IT_IS, FLAT, SWAPPED

RANGE = 120.0
"""Joined scales may be multiplied in any order: the absolute values of their binary exponents sum to at most this. There are at
most ``JOINED`` of them, as many as are charged for."""


@rewriting("Gemm", "com.microsoft.FusedGemm")
def general_product(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """``activation(alpha A B + beta C)`` with the scales and constants behind a Gemm or a MatMul by a constant matrix.

    A MatMul of more than two axes is executed on rows: both sides are equal in row-major order.
    """
    if pair.view not in (AS_IT_IS, FLAT):
        return False
    file = before_activation(matching, op, pair.file)
    if file is None:
        return matching.refuse(op, other_activation(op))
    addend = op.input(2) if op.input(2) and executed_constant(matching, op.input(2)) is None else ""
    for start, residual in with_residual(matching, file, addend):
        tail, _, layer = scale_shift(matching.file, start)
        if layer is None or layer.type not in ("Gemm", "MatMul") or (pair.view.flat and layer.type == "Gemm"):
            continue
        file_gemm, gemm = _Gemm(layer), _Gemm(op)
        if gemm.alpha != file_gemm.alpha or not _matrices(matching, gemm, file_gemm, tail):
            continue
        if layer.type == "Gemm" and not (tail.scale == 1).all():
            continue  # nothing is known to fold a scale into a Gemm
        if residual is None and not _constants(matching, gemm, file_gemm, tail):
            continue
        if residual is not None and (gemm.beta != 1.0 or file_gemm.c or tail.roundings):
            continue
        data = Pair(gemm.a, file_gemm.a, pair.view if gemm.transposes_a == file_gemm.transposes_a else SWAPPED)
        if pair.view.flat and data.view is SWAPPED:
            continue
        if (yield data) and (residual is None or (yield Pair(gemm.c, residual, pair.view))):
            return True
    return False


class _Gemm:
    """Operands and attributes of a Gemm, or of a MatMul as a Gemm."""

    def __init__(self, op: GraphOperator):
        get = op.attributes.get
        self.a, self.b, self.c = op.input(0), op.input(1), op.input(2)
        self.alpha, self.beta = (float(np.float32(get(name, 1.0))) for name in ("alpha", "beta"))
        self.transposes_a, self.transposes_b = bool(get("transA", 0)), bool(get("transB", 0))


def _matrices(matching: Matching, gemm: _Gemm, file_gemm: _Gemm, tail: ScaleShift) -> bool:
    """Whether the executed matrix is the file's, each column times its scale."""
    array, file_array = executed_constant(matching, gemm.b), matching.file.constants.get(file_gemm.b)
    if array is None or file_array is None or array.ndim != 2 or file_array.ndim != 2:
        return False
    array = array.T if gemm.transposes_b else array
    matrix = file_array.astype(np.float64)
    matrix = matrix.T if file_gemm.transposes_b else matrix
    scale = by_channel(tail.scale, matrix.shape[1], max(2, tail.scale.ndim), max(2, tail.scale.ndim) - 1)
    if scale is None or array.shape != matrix.shape:
        return False
    if tail.roundings == 0:
        return bool((array == matrix).all())
    return is_near(array, matrix * scale, matrix * scale, tail.error)


def _constants(matching: Matching, gemm: _Gemm, file_gemm: _Gemm, tail: ScaleShift) -> bool:
    """Whether the executed ``beta C`` is the file's, scaled, plus the constants behind it."""
    if file_gemm.c and file_gemm.c not in matching.file.constants:
        return False
    array = gemm.beta * (executed_constant(matching, gemm.c).astype(np.float64) if gemm.c else np.zeros(()))  # type: ignore[union-attr]
    file_bias = file_gemm.beta * (
        matching.file.constants[file_gemm.c].astype(np.float64) if file_gemm.c else np.zeros(())
    )
    expected, size = file_bias * tail.scale + tail.shift, np.abs(file_bias * tail.scale) + tail.size
    try:
        array, expected, size = np.broadcast_arrays(array, expected, size)
    except ValueError:
        return False
    return is_near(array, expected, size, tail.error)


@rewriting("Gemm", "com.microsoft.FusedGemm")
def computed_product(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A Gemm of two computed matrices that includes the activation behind it and transposes before it."""
    file = before_activation(matching, op, pair.file)
    if file is None or not pair.view.plain or executed_constant(matching, op.input(1)) is not None:
        return False
    _, layer = skip_copies(matching.file, file)
    if layer is None or layer.type not in ("Gemm", "MatMul"):
        return False
    gemm, file_gemm = _Gemm(op), _Gemm(layer)
    if gemm.alpha != file_gemm.alpha or bool(gemm.c) != bool(file_gemm.c) or (gemm.c and gemm.beta != file_gemm.beta):
        return False
    pairs = [
        Pair(gemm.a, file_gemm.a, AS_IT_IS if gemm.transposes_a == file_gemm.transposes_a else SWAPPED),
        Pair(gemm.b, file_gemm.b, AS_IT_IS if gemm.transposes_b == file_gemm.transposes_b else SWAPPED),
    ]
    for operand in [*pairs, *([Pair(gemm.c, file_gemm.c)] if gemm.c else [])]:
        if not (yield operand):
            return False
    return True


@rewriting("MatMul", "com.microsoft.FusedMatMul")
def scaled_product(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """``alpha op(A) op(B)``: a MatMul with the transposes before it, and the numbers multiplied in before and behind it."""
    if not pair.view.plain or op.attributes.get("transBatchA", 0) or op.attributes.get("transBatchB", 0):
        return False
    alpha = float(op.attributes.get("alpha", 1.0))
    for outer, layer in _scales(matching.file, pair.file):
        if layer is None or layer.type != "MatMul":
            continue
        for (left, a), (right, b) in _operand_pairs(matching.file, layer):
            scales = [*outer, *left, *right]
            if not _product_is(alpha, scales):
                continue
            if scales and not _scales_are_charged(matching, op, layer, scales):
                return False
            turned = [bool(op.attributes.get(name, 0)) for name in ("transA", "transB")]
            # ONNX Runtime computes another product where one of the operands is a vector.
            if any(turned) and any((matching.file.rank(v) or 0) < 2 for v in (a, b)):
                return matching.refuse(op, "it transposes a matrix beside a vector")
            views = [SWAPPED if t else AS_IT_IS for t in turned]
            if (yield Pair(op.inputs[0], a, views[0])) and (yield Pair(op.inputs[1], b, views[1])):
                return True
    return False


def _scales_are_charged(matching: Matching, op: GraphOperator, layer: GraphOperator, scales: list[float]) -> bool:
    """Whether the rounding of scales that are moved to the other side of a product is charged."""
    if len(scales) > JOINED:
        return matching.refuse(op, f"more than {JOINED} scales are moved through a product")
    if sum(abs(float(np.log2(abs(s)))) if s else np.inf for s in scales) > RANGE:
        return matching.refuse(op, f"scales with exponents beyond 2^{RANGE:g} together are moved through a product")
    return True


def _operand_pairs(
    graph: Graph, layer: GraphOperator
) -> Iterator[tuple[tuple[list[float], str], tuple[list[float], str]]]:
    for left in _without_factors(graph, layer.inputs[0]):
        for right in _without_factors(graph, layer.inputs[1]):
            yield left, right


def _without_factors(graph: Graph, value: str) -> Iterator[tuple[list[float], str]]:
    """``(numbers, value)``: a factor of a product, first itself, then without each number that it was multiplied by."""
    factors: list[float] = []
    while True:
        yield list(factors), value
        value, op = skip_copies(graph, value)
        factor = None if op is None else _number(graph, op)
        if factor is None:
            return
        factors.append(factor[0])
        value = factor[1]


def _scales(graph: Graph, value: str) -> Iterator[tuple[list[float], GraphOperator | None]]:
    """``(numbers, operator)``: the producer of a value, first itself, then without each number that it was multiplied by."""
    for factors, inner in _without_factors(graph, value):
        yield factors, skip_copies(graph, inner)[1]


def _number(graph: Graph, op: GraphOperator) -> tuple[float, str] | None:
    """The number that an operator multiplies by, and the value that it multiplies; None where it does not."""
    if op.type not in ("Mul", "Div"):
        return None
    for value, other in (op.inputs, op.inputs[::-1])[: 1 if op.type == "Div" else 2]:
        if other in graph.constants and value not in graph.constants and graph.constants[other].dtype == np.float32:
            array = graph.constants[other]
            if array.size == 1 and array.ndim <= max(1, graph.rank(value) or 0):
                number = np.float32(array.reshape(-1)[0])
                with np.errstate(all="ignore"):
                    return float(np.float32(1) / number if op.type == "Div" else number), value
    return None


def _product_is(alpha: float, scales: list[float]) -> bool:
    """Whether ``alpha`` is the product of ``scales``, multiplied in float32 in some order."""
    exact = float(np.prod(np.asarray(scales, np.float64)))
    return abs(alpha - exact) <= 2 * (len(scales) + 1) * 2.0**-24 * abs(exact)
