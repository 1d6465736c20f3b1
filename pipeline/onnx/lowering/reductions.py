"""Lowerings of reductions: sums, means and extrema directly, norms and logarithms of sums as compositions."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.operators import Unsupported

_PLAIN = {
    "ReduceSum": ops.ReduceSum,
    "ReduceMean": ops.ReduceMean,
    "ReduceMax": ops.ReduceMax,
    "ReduceMin": ops.ReduceMin,
}
_READ = ("axes", "keepdims", "noop_with_empty_axes")
_MOST_FACTORS = 64
_LONGEST = 4096
"""Entries of a cumulative sum, whose matrix has as many squared."""


def _axes(item: Item) -> list[int]:
    """The axes, counted from the front. Raises Unsupported for a node that reduces nothing."""
    rank = len(item.shape())
    axes, noop = item.ints(1), item.flag("noop_with_empty_axes")
    if not axes and noop:
        raise Unsupported("noop_with_empty_axes: it reduces nothing")
    return sorted({a % rank for a in axes}) if axes else list(range(rank))


@operator(*_PLAIN, reads=_READ, inputs=2)
def _reduce(item: Item) -> fx.Node:
    keep = item.flag("keepdims")
    return item.build.emit(_PLAIN[item.node.op_type](_axes(item), keepdim=keep), item.arg())


def _sum(item: Item, x: fx.Node) -> fx.Node:
    return item.build.emit(ops.ReduceSum(_axes(item), keepdim=item.flag("keepdims")), x)


def square(item: Item, x: fx.Node) -> fx.Node:
    """``x^2``; as a product of two values, bounds would treat its factors as independent."""
    return item.build.emit(ops.Pow(), x, item.build.literal(2.0, item.build.dtype(item.node.inputs[0])))


@operator("ReduceL1", reads=_READ, inputs=2)
def _l1(item: Item) -> fx.Node:
    return _sum(item, item.build.emit(ops.Abs(), item.arg()))


@operator("ReduceSumSquare", reads=_READ, inputs=2)
def _sum_square(item: Item) -> fx.Node:
    return _sum(item, square(item, item.arg()))


@operator("ReduceL2", reads=_READ, inputs=2)
def _l2(item: Item) -> fx.Node:
    return item.build.emit(ops.RootOfSquares(), _sum(item, square(item, item.arg())))


@operator("ReduceLogSum", reads=_READ, inputs=2)
def _log_sum(item: Item) -> fx.Node:
    return item.build.emit(ops.WholeKernel("ReduceLogSum"), item.build.emit(ops.Log(), _sum(item, item.arg())))


@operator("ReduceLogSumExp", reads=_READ, inputs=2)
def _log_sum_exp(item: Item) -> fx.Node:
    total = _sum(item, item.build.emit(ops.Exp(), item.arg()))
    return item.build.emit(ops.WholeKernel("ReduceLogSumExp"), item.build.emit(ops.Log(), total))


@operator("ReduceProd", reads=_READ, inputs=2)
def _prod(item: Item) -> fx.Node:
    """One product after the other; a runtime may use another order, whose intermediate results may overflow."""
    shape, axes, x = item.shape(), _axes(item), item.arg()
    factors = math.prod(shape[a] for a in axes)
    if 0 in axes or factors > _MOST_FACTORS:
        raise Unsupported(f"it multiplies the batch, or more than {_MOST_FACTORS} factors")
    for axis in axes:
        parts = [item.build.emit(ops.Slice([i], [i + 1], [axis], [1]), x) for i in range(shape[axis])]
        x = reduce(lambda a, b: item.build.emit(ops.Product(), a, b), parts)
    if not item.flag("keepdims"):
        x = item.build.emit(ops.Squeeze(axes), x)
    return item.build.emit(ops.WholeKernel("ReduceProd"), x)


@operator("Mean", inputs=None, pointwise=True)
def _mean(item: Item) -> fx.Node:
    """The sum of the operands over their number; unless that is a power of two, kernels may divide or multiply by its inverse."""
    total, *others = item.args()
    count = 1 + len(others)
    for other in others:
        total = item.build.emit(ops.Add(count), total, other)
    share = item.build.literal(1 / count, item.build.dtype(item.node.inputs[0]))
    mean = item.build.emit(ops.Mul(), total, share) if others else total
    return mean if count & (count - 1) == 0 else item.build.emit(ops.WholeKernel("Mean"), mean)


@operator("CumSum", reads=["exclusive", "reverse"], inputs=2)
def _cumulative(item: Item) -> fx.Node:
    """``y_j`` is the sum of ``x_i``, ``i <= j`` (before j if exclusive, after it if reverse): a product with a matrix of ones."""
    shape, along = item.shape(), item.ints(1)
    if along is None or len(along) != 1 or not shape:
        raise Unsupported("its axis is not one number")
    axis, last = along[0] % len(shape), len(shape) - 1
    length, dtype = shape[axis], item.build.dtype(item.node.inputs[0])
    if axis == 0 or length > _LONGEST or not dtype.is_floating_point:
        raise Unsupported(f"it runs along the batch, over more than {_LONGEST} entries, or over whole numbers")
    # Of the entry that is read, after the one it is for.
    before = torch.arange(length).reshape(-1, 1) - torch.arange(length)
    if item.flag("reverse"):
        before = -before
    read = before < 0 if item.flag("exclusive") else before <= 0
    swapped = [*range(axis), last, *range(axis + 1, last), axis] if axis < last else None
    x = item.arg() if swapped is None else item.build.emit(ops.Transpose(swapped), item.arg())
    total = item.build.emit(ops.MatMul(), x, item.build.literal(read.float(), dtype))
    return total if swapped is None else item.build.emit(ops.Transpose(swapped), total)


@operator("GlobalAveragePool")
def _global_average(item: Item) -> fx.Node:
    return item.build.emit(ops.ReduceMean(range(2, len(item.shape())), keepdim=True), item.arg())


@operator("GlobalMaxPool")
def _global_max(item: Item) -> fx.Node:
    return item.build.emit(ops.ReduceMax(range(2, len(item.shape())), keepdim=True), item.arg())


@operator("LRN", reads=["size", "alpha", "beta", "bias"])
def _local_response(item: Item) -> fx.Node:
    """``x (bias + alpha/size sum x^2)^-beta``, the sum over the channels around each (ONNX LRN; Krizhevsky et al., 2012, 3.3)."""
    size, rank = int(item.attribute("size")), len(item.shape())
    alpha, beta = item.attribute("alpha"), item.attribute("beta")
    bias, channels, dtype = item.attribute("bias"), item.shape()[1], item.build.dtype(item.node.inputs[0])
    if not (alpha >= 0 and bias > 0):
        raise Unsupported("alpha is negative or bias is not positive, so that its base may be zero")
    channel = torch.arange(channels)
    offset = channel.reshape(-1, 1) - channel  # of the channel that is read, before the one it is read for
    in_window = (offset >= -((size - 1) // 2)) & (offset <= size // 2)
    emit, last = item.build.emit, [0, *range(2, rank), 1]
    x, back = item.arg(), [0, rank - 1, *range(1, rank - 1)]
    window_sum = emit(
        ops.MatMul(), emit(ops.Transpose(last), square(item, x)), item.build.literal(in_window.float(), dtype)
    )
    total = emit(ops.Mul(), emit(ops.Transpose(back), window_sum), item.build.literal(alpha, dtype))
    total = emit(ops.Div(), total, item.build.literal(float(size), dtype))
    base = emit(nn.ReLU(), total)  # a sum of squares, whose lower end was rounded outward
    base = emit(ops.Add(), base, item.build.literal(bias, dtype))
    scale = emit(ops.Pow(), base, item.build.literal(-beta, dtype))
    return emit(ops.WholeKernel("LRN"), emit(ops.Product(), x, scale))
