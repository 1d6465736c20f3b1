"""The rules of ``batch_axis.py``: where samples stand behind each family of operators that compute something."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pipeline.onnx.batch.axis import POINTWISE, Tracing, follows
from pipeline.onnx.batch.place import Lost, Place, axis_of
from pipeline.onnx.ir import Node


def first(t: Tracing, node: Node) -> tuple[Place, tuple[int, ...]]:
    """Place and share of the first operand; the others must be the same for every sample."""
    x, *others = node.inputs
    if any(v and t.place(v) is not None for v in others):
        raise Lost("an operand that is taken for a constant depends on the samples")
    place = t.place(x)
    if place is None:
        raise Lost("its first operand is a constant, another depends on the samples")
    return place, t.share(x)


def apart(place: Place, axes: Iterable[int]) -> Place:
    if place.axis in set(axes):
        raise Lost(f"it runs along axis {place.axis}, which holds the samples of the batch")
    return place


@follows(
    POINTWISE,
    *(
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atanh",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Cast",
    ),
    *(
        "CastLike",
        "Cosh",
        "Dropout",
        "Identity",
        "IsInf",
        "IsNaN",
        "Mean",
        "Mod",
        "PRelu",
        "QuickGelu",
        "Sinh",
        "Swish",
    ),
    *("Tan", "Xor"),
)
def pointwise(t: Tracing, node: Node) -> Place:
    """Entry by entry, operands broadcast."""
    values = [v for v in node.inputs if v]
    rank = max(len(t.share(v)) for v in values)
    return _broadcast(t, values, [len(t.share(v)) for v in values], rank)


def _broadcast(t: Tracing, values: Sequence[str], ranks: Sequence[int], rank: int) -> Place:
    """The one place of operands that are broadcast to a rank; ``ranks`` counts the axes of each that are."""
    found = {p.at(p.axis + rank - r) for v, r in zip(values, ranks, strict=True) if (p := t.place(v)) is not None}
    if len(found) != 1:
        raise Lost("the samples of its operands stand in different axes")
    (place,) = found
    for value, r in zip(values, ranks, strict=True):
        here = place.axis - rank + r
        if t.place(value) is None and here >= 0 and t.share(value)[here] != 1:
            raise Lost("a constant has more than one entry along the axis of the samples")
    return place


@follows("QuantizeLinear", "DequantizeLinear")
def _quantized(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    along = [axis_of(node, 1, len(share))] if any(v and math.prod(t.share(v)) > 1 for v in node.inputs[1:]) else []
    return apart(place, along)


@follows("Softmax", "LogSoftmax", "Hardmax")
def _softmax(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    axis = axis_of(node, -1 if t.opset >= 13 else 1, len(share))
    return apart(place, range(axis, len(share)) if t.opset < 13 else [axis])


@follows("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    return apart(place, range(axis_of(node, -1, len(share)), len(share)))


@follows("LpNormalization", "TopK")
def _along_one(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    return apart(place, [axis_of(node, -1, len(share))])


@follows("CumSum")
def _cumulated(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    return apart(place, [a % len(share) for a in t.numbers(node, "", 1) or ()])


@follows("ArgMax", "ArgMin")
def _arg(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    return without(place, [axis_of(node, 0, len(share))], kept=node.attributes.peek("keepdims", 1))


@follows(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)
def _reduced(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    axes = t.numbers(node, "axes", 1)
    if not axes and node.attributes.peek("noop_with_empty_axes", 0):
        return place
    gone = [a % len(share) for a in axes or range(len(share))]
    return without(place, gone, kept=node.attributes.peek("keepdims", 1))


def without(place: Place, axes: Sequence[int], *, kept: int) -> Place:
    apart(place, axes)
    return place if kept else place.at(place.axis - sum(a < place.axis for a in axes))


@follows(
    *("AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
    *("GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth"),
    *("LinearClassifier", "LinearRegressor", "Normalizer", "Scaler", "ZipMap"),
)
def _samplesfirst(t: Tracing, node: Node) -> Place:
    """What takes the first axis for samples itself, and keeps them apart."""
    place, _ = first(t, node)
    if place.axis != 0:
        raise Lost(f"it mixes its axis {place.axis}, which holds the samples of the batch")
    return place


@follows("BatchNormalization")
def _batch_norm(t: Tracing, node: Node) -> Place:
    place, _ = first(t, node)
    return apart(place, [1])


@follows("MatMul")
def _product(t: Tracing, node: Node) -> Place:
    a, b = node.inputs
    (p, q), (left, right) = (t.place(a), t.place(b)), (len(t.share(a)), len(t.share(b)))
    if (p is not None and p.axis == left - 1) or (q is not None and q.axis == max(right - 2, 0)):
        raise Lost("it sums over the samples of the batch")
    # A vector is a matrix of one row, or one column, and the result goes without that axis.
    rank = max(left, right, 2) - (left == 1) - (right == 1)
    rows = p is not None and p.axis == left - 2
    columns = q is not None and q.axis == right - 1
    if rows or columns:
        if p is not None and q is not None:
            raise Lost("samples of one operand meet those of the other")
        own = p or q
        assert own is not None
        return own.at(rank - 1 - (right > 1) if rows else rank - 1)
    beside = max(left, right) - 2
    found = _broadcast(t, [a, b], [left - 2, right - 2], beside)
    return found


@follows("Linear")
def _linear(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    if place.axis == len(share) - 1:
        raise Lost("it sums over the samples of the batch")
    return place


@follows("Gemm")
def _gemm(t: Tracing, node: Node) -> Place:
    (a, b), c = node.inputs[:2], node.input(2)
    p, q = t.place(a), t.place(b)
    row, column = bool(node.attributes.peek("transA", 0)), not node.attributes.peek("transB", 0)
    if (p is not None and p.axis != row) or (q is not None and q.axis != column):
        raise Lost("it sums over the samples of the batch")
    if p is not None and q is not None:
        raise Lost("samples of one operand meet those of the other")
    place = p.at(0) if p is not None else q.at(1) if q is not None else None
    added = t.place(c) if c else None
    rank = len(t.share(c)) if c else 0
    if added is not None:
        added = added.at(added.axis + 2 - rank)
    if place is None or (added is not None and added != place):
        raise Lost("the samples of its operands stand in different axes")
    if c and added is None and place.axis - 2 + rank >= 0 and t.share(c)[place.axis - 2 + rank] != 1:
        raise Lost("a constant has more than one entry along the axis of the samples")
    return place


@follows("Einsum")
def _einsum(t: Tracing, node: Node) -> Place:
    equation = node.attributes.peek("equation", b"").decode(errors="replace").replace(" ", "")
    operands, arrow, out = equation.partition("->")
    terms = operands.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in (*terms, out)):
        raise Lost("its equation has an ellipsis, a repeated label or no result")
    found = {(term[p.axis], p.at(0)) for v, term in zip(node.inputs, terms, strict=True) if (p := t.place(v))}
    if len(found) != 1:
        raise Lost("samples of one operand meet those of the other")
    ((label, place),) = found
    if label not in out:
        raise Lost("it sums over the samples of the batch")
    for value, term in zip(node.inputs, terms, strict=True):
        if t.place(value) is None and label in term and t.share(value)[term.index(label)] != 1:
            raise Lost("a constant has more than one entry along the axis of the samples")
    return place.at(out.index(label))
