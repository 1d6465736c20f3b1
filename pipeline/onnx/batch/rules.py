"""Batch-axis rules of operators that compute something: pointwise, normalisations, reductions, layers, products."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pipeline.onnx.batch.axis import BatchAxis, Untraceable, axis_of
from pipeline.onnx.batch.registry import POINTWISE, batch_rule
from pipeline.onnx.batch.trace import BatchTrace
from pipeline.onnx.ir import Node


def first_operand(trace: BatchTrace, node: Node) -> tuple[BatchAxis, tuple[int, ...]]:
    """Batch axis of the first operand, and its shape at a batch of one. Raises Untraceable unless all others are constants."""
    x, *others = node.inputs
    if any(v and trace.batch_axis(v) is not None for v in others):
        raise Untraceable("an operand that is taken for a constant depends on the samples")
    batch = trace.batch_axis(x)
    if batch is None:
        raise Untraceable("its first operand is a constant, another depends on the samples")
    return batch, trace.sample_shape(x)


def not_along(batch: BatchAxis, axes: Iterable[int]) -> BatchAxis:
    """``batch``, unchanged, where an operator works along ``axes``. Raises Untraceable where the batch is one of them."""
    if batch.axis in set(axes):
        raise Untraceable(f"it runs along axis {batch.axis}, which holds the samples of the batch")
    return batch


@batch_rule(
    POINTWISE,
    *("Acos", "Acosh", "Asin", "Asinh", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    *("Cast", "CastLike", "Cosh", "Dropout", "Identity", "IsInf", "IsNaN", "Mean", "Mod", "PRelu", "QuickGelu"),
    *("Sinh", "Swish", "Tan", "Xor"),
)
def pointwise(trace: BatchTrace, node: Node) -> BatchAxis:
    """Entry by entry, operands broadcast."""
    values = [v for v in node.inputs if v]
    rank = max(len(trace.sample_shape(v)) for v in values)
    return _broadcast(trace, values, [len(trace.sample_shape(v)) for v in values], rank)


def _broadcast(trace: BatchTrace, values: Sequence[str], ranks: Sequence[int], rank: int) -> BatchAxis:
    """The one batch axis of ``values`` that are broadcast to ``rank``; ``ranks``: how many axes of each are broadcast."""
    candidates = {
        p.with_axis(p.axis + rank - r)
        for v, r in zip(values, ranks, strict=True)
        if (p := trace.batch_axis(v)) is not None
    }
    if len(candidates) != 1:
        raise Untraceable("the samples of its operands stand in different axes")
    (batch,) = candidates
    for value, r in zip(values, ranks, strict=True):
        here = batch.axis - rank + r
        if trace.batch_axis(value) is None and here >= 0 and trace.sample_shape(value)[here] != 1:
            raise Untraceable("a constant has more than one entry along the axis of the samples")
    return batch


@batch_rule("QuantizeLinear", "DequantizeLinear")
def _quantize(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    along = (
        [axis_of(node, 1, len(shape))]
        if any(v and math.prod(trace.sample_shape(v)) > 1 for v in node.inputs[1:])
        else []
    )
    return not_along(batch, along)


@batch_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    axis = axis_of(node, -1 if trace.opset >= 13 else 1, len(shape))
    return not_along(batch, range(axis, len(shape)) if trace.opset < 13 else [axis])


@batch_rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def _layer_norm(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return not_along(batch, range(axis_of(node, -1, len(shape)), len(shape)))


@batch_rule("LpNormalization", "TopK")
def _one_axis(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return not_along(batch, [axis_of(node, -1, len(shape))])


@batch_rule("CumSum")
def _cumsum(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return not_along(batch, [a % len(shape) for a in trace.numbers(node, "", 1) or ()])


@batch_rule("ArgMax", "ArgMin")
def _arg(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return after_reduction(batch, [axis_of(node, 0, len(shape))], keepdims=node.attributes.peek("keepdims", 1))


@batch_rule(
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)
def _reduce(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    axes = trace.numbers(node, "axes", 1)
    if not axes and node.attributes.peek("noop_with_empty_axes", 0) == 1:
        return batch
    dropped = [a % len(shape) for a in axes or range(len(shape))]
    return after_reduction(batch, dropped, keepdims=node.attributes.peek("keepdims", 1))


def after_reduction(batch: BatchAxis, axes: Sequence[int], *, keepdims: int) -> BatchAxis:
    """The batch axis behind a reduction along ``axes``. Raises Untraceable where the batch is one of them."""
    not_along(batch, axes)
    return batch if keepdims else batch.with_axis(batch.axis - sum(a < batch.axis for a in axes))


@batch_rule(
    *("AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"),
    *("GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool", "SpaceToDepth"),
    *("LinearClassifier", "LinearRegressor", "Normalizer", "Scaler", "ZipMap"),
)
def _batch_first(trace: BatchTrace, node: Node) -> BatchAxis:
    """Operators that ONNX defines with the batch in the first axis, and that keep samples apart."""
    batch, _ = first_operand(trace, node)
    if batch.axis != 0:
        raise Untraceable(f"it mixes its axis {batch.axis}, which holds the samples of the batch")
    return batch


@batch_rule("BatchNormalization")
def _batch_norm(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, _ = first_operand(trace, node)
    return not_along(batch, [1])


@batch_rule("MatMul")
def _matmul(trace: BatchTrace, node: Node) -> BatchAxis:
    a, b = node.inputs
    (p, q), (left, right) = (
        (trace.batch_axis(a), trace.batch_axis(b)),
        (len(trace.sample_shape(a)), len(trace.sample_shape(b))),
    )
    if (p is not None and p.axis == left - 1) or (q is not None and q.axis == max(right - 2, 0)):
        raise Untraceable("it sums over the samples of the batch")
    # A vector is a matrix of one row, or one column, and the result goes after_reduction that axis.
    rank = max(left, right, 2) - (left == 1) - (right == 1)
    rows = p is not None and p.axis == left - 2
    columns = q is not None and q.axis == right - 1
    if rows or columns:
        if p is not None and q is not None:
            raise Untraceable("samples of one operand meet those of the other")
        operand = p or q
        assert operand is not None
        return operand.with_axis(rank - 1 - (right > 1) if rows else rank - 1)
    return _broadcast(trace, [a, b], [left - 2, right - 2], max(left, right) - 2)


@batch_rule("Linear")
def _linear(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    if batch.axis == len(shape) - 1:
        raise Untraceable("it sums over the samples of the batch")
    return batch


@batch_rule("Gemm")
def _gemm(trace: BatchTrace, node: Node) -> BatchAxis:
    (a, b), c = node.inputs[:2], node.input(2)
    p, q = trace.batch_axis(a), trace.batch_axis(b)
    row, column = bool(node.attributes.peek("transA", 0)), not node.attributes.peek("transB", 0)
    if (p is not None and p.axis != row) or (q is not None and q.axis != column):
        raise Untraceable("it sums over the samples of the batch")
    if p is not None and q is not None:
        raise Untraceable("samples of one operand meet those of the other")
    batch = p.with_axis(0) if p is not None else q.with_axis(1) if q is not None else None
    bias = trace.batch_axis(c) if c else None
    rank = len(trace.sample_shape(c)) if c else 0
    if bias is not None:
        bias = bias.with_axis(bias.axis + 2 - rank)
    if batch is None or (bias is not None and bias != batch):
        raise Untraceable("the samples of its operands stand in different axes")
    if c and bias is None and batch.axis - 2 + rank >= 0 and trace.sample_shape(c)[batch.axis - 2 + rank] != 1:
        raise Untraceable("a constant has more than one entry along the axis of the samples")
    return batch


@batch_rule("Einsum")
def _einsum(trace: BatchTrace, node: Node) -> BatchAxis:
    equation = node.attributes.peek("equation", b"").decode(errors="replace").replace(" ", "")
    operands, arrow, out = equation.partition("->")
    terms = operands.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in (*terms, out)):
        raise Untraceable("its equation has an ellipsis, a repeated label or no result")
    labels = {
        (term[p.axis], p.with_axis(0)) for v, term in zip(node.inputs, terms, strict=True) if (p := trace.batch_axis(v))
    }
    if len(labels) != 1:
        raise Untraceable("samples of one operand meet those of the other")
    ((label, batch),) = labels
    if label not in out:
        raise Untraceable("it sums over the samples of the batch")
    for value, term in zip(node.inputs, terms, strict=True):
        if trace.batch_axis(value) is None and label in term and trace.sample_shape(value)[term.index(label)] != 1:
            raise Untraceable("a constant has more than one entry along the axis of the samples")
    return batch.with_axis(out.index(label))
