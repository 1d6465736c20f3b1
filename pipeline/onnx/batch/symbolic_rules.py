"""Evaluations of operators on values that depend on the batch size alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import numpy_helper

from pipeline.onnx.batch.axis import Untraceable, axis_of, reshape_batch_axis
from pipeline.onnx.batch.symbolic import LARGEST, Symbolic, evaluates
from pipeline.onnx.ir import Node


def _first(args: Sequence[Symbolic | None]) -> Symbolic:
    assert args[0] is not None
    return args[0]


def _pair(args: Sequence[Symbolic | None]) -> tuple[Symbolic, Symbolic]:
    x, y = args[:2]
    assert x is not None
    assert y is not None
    return x, y


def numbers(value: Symbolic | None) -> list[int]:
    """A value as a list of integers. Raises Untraceable where it depends on N."""
    if value is None or not value.constant:
        raise Untraceable("its axes or indices depend on the batch size")
    return [int(v) for v in value.base.reshape(-1)]


@evaluates("Identity", "Cast")
def _identity_or_cast(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x = _first(args)
    if node.op_type == "Identity":
        return x
    if (dtype := _CASTS.get(node.attributes.peek("to"))) is None:
        raise Untraceable("it is converted to a type without room for it")
    x.require_exact()
    if x.base.dtype.kind == "f" and (x.base != np.rint(x.base)).any():
        raise Untraceable("it is rounded")
    result = x.map(lambda v: v.astype(dtype), x.axis)
    result.require_exact()
    return result


_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}


@evaluates("Unsqueeze", "Squeeze")
def _squeeze(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x, attribute = _first(args), node.attributes.peek("axes")
    rank = x.base.ndim
    axes = numbers(args[1]) if len(args) > 1 else attribute
    if node.op_type == "Unsqueeze":
        axes = [a % (rank + len(axes)) for a in axes]
        axis = x.axis
        for a in sorted(axes):
            axis = axis + 1 if axis is not None and a <= axis else axis
        return x.map(lambda v: np.expand_dims(v, tuple(axes)), axis)
    axes = [a % rank for a in axes] if axes is not None else [i for i, d in enumerate(x.base.shape) if d == 1]
    if x.axis in axes:
        raise Untraceable("it takes the axis of samples away")
    axis = None if x.axis is None else x.axis - sum(a < x.axis for a in axes)
    return x.map(lambda v: np.squeeze(v, tuple(axes)), axis)


@evaluates("Reshape")
def _reshape(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x, target = _pair(args)
    batch, shape = reshape_batch_axis(
        x.base.shape, x.batch_axis, target.terms(), bool(node.attributes.peek("allowzero", 0))
    )
    if batch is not None and batch.outer != 1:
        raise Untraceable("it folds samples into another axis")
    return x.map(lambda v: v.reshape(shape), None if batch is None else batch.axis)


@evaluates("Gather")
def _gather(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x, index = _first(args), args[1]
    axis = axis_of(node, 0, x.base.ndim)
    if index is None or not index.constant or x.axis is not None:
        raise Untraceable("it picks entries by the batch size")
    indices = index.base.astype(np.int64)
    return x.map(lambda v: np.take(v, indices, axis))


@evaluates("Slice")
def _slice(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x = _first(args)
    if x.axis is not None:
        raise Untraceable("it cuts what there is for each sample")
    settings = [node.attributes.peek(n) for n in ("starts", "ends", "axes")]
    if len(args) > 1:
        settings = [numbers(a) if a is not None else None for a in args[1:]]
    starts, ends, axes, steps, *_ = (*settings, None, None)
    axes = axes if axes is not None else list(range(len(starts)))
    slices = [slice(None)] * x.base.ndim
    for a, b, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        slices[axis] = slice(a, None if step < 0 and b < -LARGEST else b, step)
    return x.map(lambda v: v[tuple(slices)])


@evaluates("Concat")
def _concat(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    parts = [a for a in args if a is not None]
    if any(p.axis is not None for p in parts):
        raise Untraceable("it joins what there is for each sample")
    axis = node.attributes.peek("axis", 0)
    base, slope = (np.concatenate([getattr(p, n) for p in parts], axis) for n in ("base", "slope"))
    return Symbolic.of(base, slope)


@evaluates("Add", "Sub", "Mul", "Div", "Neg")
def _arithmetic(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x = _first(args)
    if node.op_type == "Neg":
        return x.map(np.negative, x.axis)
    x, y = _pair(args)
    axis = _common_axis(x, y)
    if node.op_type in ("Add", "Sub"):
        sign = 1 if node.op_type == "Add" else -1
        return Symbolic.of(x.base + sign * y.base, x.slope + sign * y.slope, axis, x.step + sign * y.step)
    if node.op_type == "Mul":
        if not x.uniform and not y.uniform:
            raise Untraceable("the batch size is multiplied with itself")
        x, y = (y, x) if not y.uniform else (x, y)
        return Symbolic.of(x.base * y.base, x.slope * y.base, axis, x.step * y.base)
    parts = (x.base, x.slope, x.step)
    x.require_exact()
    if not y.uniform or (y.base == 0).any() or any(p.dtype.kind == "f" or (p % y.base).any() for p in parts):
        raise Untraceable("the batch size is divided, with a rest at some")
    return Symbolic.of(x.base // y.base, x.slope // y.base, axis, x.step // y.base)


def _common_axis(x: Symbolic, y: Symbolic) -> int | None:
    """The batch axis of two values that are broadcast, None where neither has one. Raises Untraceable where the axes differ."""
    rank = max(x.base.ndim, y.base.ndim)
    axes = {(v.axis + rank - v.base.ndim, v.base.shape[v.axis]) for v in (x, y) if v.axis is not None}
    for v in (x, y):
        for axis, _ in axes:
            own_axis = axis - rank + v.base.ndim
            if v.axis is None and own_axis >= 0 and v.base.shape[own_axis] != 1:
                raise Untraceable("entries stand beside samples")
    if len(axes) > 1:
        raise Untraceable("samples of two values stand in different axes")
    return next(iter(axes))[0] if axes else None


@evaluates("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
def _compare(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    """A comparison whose result is the same for every N >= 1. Raises Untraceable for any other."""
    x, y = _pair(args)
    if x.axis is not None or y.axis is not None:
        raise Untraceable("it compares what there is for each sample")
    x.require_exact()
    y.require_exact()
    dtype = np.float64 if x.base.dtype.kind == "f" else np.int64
    base, slope = np.broadcast_arrays(
        *(a.astype(dtype) - b.astype(dtype) for a, b in ((x.base, y.base), (x.slope, y.slope)))
    )
    first = base + slope  # the difference at N = 1, from where it grows by the slope
    rising, falling = (first > 0) & (slope >= 0), (first < 0) & (slope <= 0)
    zero = (base == 0) & (slope == 0)
    decided = zero | rising | falling
    if node.op_type == "Equal":
        decided = decided | ((slope != 0) & (base % np.where(slope == 0, 1, slope) != 0))
    if not decided.all():
        raise Untraceable("it compares the batch size with a number")
    answers = {"Equal": zero, "Less": falling, "Greater": rising}
    answers |= {"LessOrEqual": falling | zero, "GreaterOrEqual": rising | zero}
    return Symbolic.of(answers[node.op_type])


@evaluates("Where")
def _where(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    condition, (x, y) = _first(args), _pair(args[1:])
    if not condition.constant or x.axis is not None or y.axis is not None:
        raise Untraceable("it chooses by the batch size")
    return Symbolic.of(np.where(condition.base, x.base, y.base), np.where(condition.base, x.slope, y.slope))


@evaluates("ReduceProd")
def _reduce_prod(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x = _first(args)
    terms = x.terms()
    if x.base.ndim != 1 or sum(bool(slope) for _, slope in terms) > 1:
        raise Untraceable("the batch size is multiplied with itself")
    base, slope = 1, 0
    for b, s in terms:
        base, slope = base * b, slope * b + base * s
    result = Symbolic.of(np.array(base, x.base.dtype), slope)
    return result.map(lambda v: v.reshape(1)) if node.attributes.peek("keepdims", 1) else result


@evaluates("ConstantOfShape")
def _constant_of_shape(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    value, (shape, axis) = node.attributes.peek("value"), _first(args).shape_at_one()
    fill_value = np.float32(0) if value is None else numpy_helper.to_array(value).reshape(())
    return Symbolic.of(np.full(shape, fill_value), axis=axis)


@evaluates("Expand")
def _expand(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    x, target = _pair(args)
    shape, axis = target.shape_at_one()
    rank = max(x.base.ndim, len(shape))
    x_axis = None if x.axis is None else x.axis + rank - x.base.ndim
    axis = None if axis is None else axis + rank - len(shape)
    if x_axis is not None and axis is not None and x_axis != axis:
        raise Untraceable("it copies samples beside samples")
    if axis is not None and x_axis is None and x.base.ndim > rank - 1 - axis and x.base.shape[axis - rank] != 1:
        raise Untraceable("it copies entries beside samples")
    if x_axis is not None and x_axis == axis and x.base.shape[x.axis or 0] != shape[axis - rank + len(shape)]:
        raise Untraceable("it copies samples")
    broadcast_shape = np.broadcast_shapes(x.base.shape, tuple(shape))
    return x.map(lambda v: np.broadcast_to(v, broadcast_shape), axis if axis is not None else x_axis)


@evaluates("Tile")
def _tile(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    """Also of one entry N times, as PyTorch's dynamo exporter repeats a class token."""
    x, repeats = _pair(args)
    counts, axis = list[int](), x.axis
    for i, (base, slope) in enumerate(repeats.terms()):
        if slope and (axis is not None or (base, slope) != (0, 1) or x.base.shape[i] != 1):
            raise Untraceable("it copies samples beside samples")
        axis = i if slope else axis
        counts.append(1 if slope else int(base))
    if x.axis is not None and counts[x.axis] != 1:
        raise Untraceable("it copies samples")
    return x.map(lambda v: np.tile(v, counts), axis)


@evaluates("Range")
def _range(node: Node, args: Sequence[Symbolic | None]) -> Symbolic:
    (start, _), (limit, slope), (delta, _) = (a.terms()[0] for a in args if a is not None)
    if not (args[0] and args[2] and args[0].constant and args[2].constant and delta) or limit != start or slope % delta:
        raise Untraceable("how many numbers it counts is no multiple of the batch size")
    count = slope // delta
    return Symbolic.of(start + delta * np.arange(count), axis=0, step=delta * count)
