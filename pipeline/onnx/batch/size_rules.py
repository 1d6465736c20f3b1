"""What operators make of values that are functions of the number of samples: ``evaluates`` enters each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.onnx.batch.place import Lost, axis_of, resized
from pipeline.onnx.batch.sizes import LARGEST, Sized, evaluates
from pipeline.onnx.ir import Node


def _first(args: Sequence[Sized | None]) -> Sized:
    assert args[0] is not None
    return args[0]


def numbers(value: Sized | None) -> list[int]:
    """A constant list of whole numbers. Raises Lost where it depends on N."""
    if value is None or not value.constant:
        raise Lost("its axes or indices depend on the batch size")
    return [int(v) for v in value.base.reshape(-1)]


@evaluates("Identity", "Cast")
def _same(node: Node, args: Sequence[Sized | None]) -> Sized:
    x = _first(args)
    if node.op_type == "Identity":
        return x
    if (dtype := _CASTS.get(node.attributes.peek("to"))) is None:
        raise Lost("it is converted to a type without room for it")
    x.require_exact()
    if x.base.dtype.kind == "f" and (x.base != np.rint(x.base)).any():
        raise Lost("it is rounded")
    made = x.each(lambda v: v.astype(dtype), x.axis)
    made.require_exact()
    return made


_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}


@evaluates("Unsqueeze", "Squeeze")
def _squeezed(node: Node, args: Sequence[Sized | None]) -> Sized:
    x, given = _first(args), node.attributes.peek("axes")
    rank = x.base.ndim
    axes = numbers(args[1]) if len(args) > 1 else given
    if node.op_type == "Unsqueeze":
        axes = [a % (rank + len(axes)) for a in axes]
        axis = x.axis
        for a in sorted(axes):
            axis = axis + 1 if axis is not None and a <= axis else axis
        return x.each(lambda v: np.expand_dims(v, tuple(axes)), axis)
    axes = [a % rank for a in axes] if axes is not None else [i for i, d in enumerate(x.base.shape) if d == 1]
    if x.axis in axes:
        raise Lost("it takes the axis of samples away")
    axis = None if x.axis is None else x.axis - sum(a < x.axis for a in axes)
    return x.each(lambda v: np.squeeze(v, tuple(axes)), axis)


@evaluates("Reshape")
def _reshaped(node: Node, args: Sequence[Sized | None]) -> Sized:
    x, target = _first(args), args[1]
    assert target is not None
    place, shape = resized(x.base.shape, x.place, target.terms(), bool(node.attributes.peek("allowzero", 0)))
    if place is not None and place.outer != 1:
        raise Lost("it folds samples into another axis")
    return x.each(lambda v: v.reshape(shape), None if place is None else place.axis)


@evaluates("Gather")
def _gathered(node: Node, args: Sequence[Sized | None]) -> Sized:
    x, index = _first(args), args[1]
    axis = axis_of(node, 0, x.base.ndim)
    if index is None or not index.constant or x.axis is not None:
        raise Lost("it picks entries by the batch size")
    picked = index.base.astype(np.int64)
    return x.each(lambda v: np.take(v, picked, axis))


@evaluates("Slice")
def _sliced(node: Node, args: Sequence[Sized | None]) -> Sized:
    x = _first(args)
    if x.axis is not None:
        raise Lost("it cuts what there is for each sample")
    given = [node.attributes.peek(n) for n in ("starts", "ends", "axes")]
    if len(args) > 1:
        given = [numbers(a) if a is not None else None for a in args[1:]]
    starts, ends, axes, steps, *_ = (*given, None, None)
    axes = axes if axes is not None else list(range(len(starts)))
    cut = [slice(None)] * x.base.ndim
    for a, b, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        cut[axis] = slice(a, None if step < 0 and b < -LARGEST else b, step)
    return x.each(lambda v: v[tuple(cut)])


@evaluates("Concat")
def _joined(node: Node, args: Sequence[Sized | None]) -> Sized:
    parts = [a for a in args if a is not None]
    if any(p.axis is not None for p in parts):
        raise Lost("it joins what there is for each sample")
    axis = node.attributes.peek("axis", 0)
    base, slope = (np.concatenate([getattr(p, n) for p in parts], axis) for n in ("base", "slope"))
    return Sized.of(base, slope)


@evaluates("Add", "Sub", "Mul", "Div", "Neg")
def _computed(node: Node, args: Sequence[Sized | None]) -> Sized:
    x = _first(args)
    if node.op_type == "Neg":
        return x.each(np.negative, x.axis)
    y = args[1]
    assert y is not None
    axis = _aligned(x, y)
    if node.op_type in ("Add", "Sub"):
        sign = 1 if node.op_type == "Add" else -1
        return Sized.of(x.base + sign * y.base, x.slope + sign * y.slope, axis, x.step + sign * y.step)
    if node.op_type == "Mul":
        if not x.alike and not y.alike:
            raise Lost("the batch size is multiplied with itself")
        x, y = (y, x) if not y.alike else (x, y)
        return Sized.of(x.base * y.base, x.slope * y.base, axis, x.step * y.base)
    parts = (x.base, x.slope, x.step)
    x.require_exact()
    if not y.alike or (y.base == 0).any() or any(p.dtype.kind == "f" or (p % y.base).any() for p in parts):
        raise Lost("the batch size is divided, with a rest at some")
    return Sized.of(x.base // y.base, x.slope // y.base, axis, x.step // y.base)


def _aligned(x: Sized, y: Sized) -> int | None:
    """The axis of samples of two values that are broadcast. Raises Lost where they have it in different places."""
    rank = max(x.base.ndim, y.base.ndim)
    found = {(v.axis + rank - v.base.ndim, v.base.shape[v.axis]) for v in (x, y) if v.axis is not None}
    for v in (x, y):
        for axis, _ in found:
            here = axis - rank + v.base.ndim
            if v.axis is None and here >= 0 and v.base.shape[here] != 1:
                raise Lost("entries stand beside samples")
    if len(found) > 1:
        raise Lost("samples of two values stand in different axes")
    return next(iter(found))[0] if found else None


@evaluates("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
def _compared(node: Node, args: Sequence[Sized | None]) -> Sized:
    """Where the answer is the same for every N from 1 on."""
    x, y = _first(args), args[1]
    assert y is not None
    if x.axis is not None or y.axis is not None:
        raise Lost("it compares what there is for each sample")
    x.require_exact()
    y.require_exact()
    wide = np.float64 if x.base.dtype.kind == "f" else np.int64
    base, slope = np.broadcast_arrays(
        *(a.astype(wide) - b.astype(wide) for a, b in ((x.base, y.base), (x.slope, y.slope)))
    )
    first = base + slope  # at N = 1; from there on it moves away from it by the slope
    rising, falling = (first > 0) & (slope >= 0), (first < 0) & (slope <= 0)
    zero = (base == 0) & (slope == 0)
    never = zero | rising | falling
    if node.op_type == "Equal":
        never = never | ((slope != 0) & (base % np.where(slope == 0, 1, slope) != 0))
    if not never.all():
        raise Lost("it compares the batch size with a number")
    answers = {"Equal": zero, "Less": falling, "Greater": rising}
    answers |= {"LessOrEqual": falling | zero, "GreaterOrEqual": rising | zero}
    return Sized.of(answers[node.op_type])


@evaluates("Where")
def _chosen(node: Node, args: Sequence[Sized | None]) -> Sized:
    condition, x, y = args
    assert condition is not None
    assert x is not None
    assert y is not None
    if not condition.constant or x.axis is not None or y.axis is not None:
        raise Lost("it chooses by the batch size")
    return Sized.of(np.where(condition.base, x.base, y.base), np.where(condition.base, x.slope, y.slope))


@evaluates("ReduceProd")
def _product(node: Node, args: Sequence[Sized | None]) -> Sized:
    x = _first(args)
    terms = x.terms()
    if x.base.ndim != 1 or sum(bool(slope) for _, slope in terms) > 1:
        raise Lost("the batch size is multiplied with itself")
    base, slope = 1, 0
    for b, s in terms:
        base, slope = base * b, slope * b + base * s
    made = Sized.of(np.array(base, x.base.dtype), slope)
    return made.each(lambda v: v.reshape(1)) if node.attributes.peek("keepdims", 1) else made


def _per_sample(target: Sized) -> tuple[list[int], int | None]:
    """A shape with N samples along one axis at most, as one sample's share of it and that axis. Raises Lost."""
    shape, axis = [], None
    for i, (base, slope) in enumerate(target.terms()):
        if slope and (base or slope < 0 or axis is not None):
            raise Lost("a size is another function of the batch size than a multiple of it")
        axis = i if slope else axis
        shape.append(int(slope or base))
    return shape, axis


@evaluates("ConstantOfShape")
def _filled(node: Node, args: Sequence[Sized | None]) -> Sized:
    from onnx import numpy_helper

    value, (shape, axis) = node.attributes.peek("value"), _per_sample(_first(args))
    filler = np.float32(0) if value is None else numpy_helper.to_array(value).reshape(())
    return Sized.of(np.full(shape, filler), axis=axis)


@evaluates("Expand")
def _expanded(node: Node, args: Sequence[Sized | None]) -> Sized:
    x, target = _first(args), args[1]
    assert target is not None
    shape, axis = _per_sample(target)
    rank = max(x.base.ndim, len(shape))
    own = None if x.axis is None else x.axis + rank - x.base.ndim
    axis = None if axis is None else axis + rank - len(shape)
    if own is not None and axis is not None and own != axis:
        raise Lost("it copies samples beside samples")
    if axis is not None and own is None and x.base.ndim > rank - 1 - axis and x.base.shape[axis - rank] != 1:
        raise Lost("it copies entries beside samples")
    if own is not None and own == axis and x.base.shape[x.axis or 0] != shape[axis - rank + len(shape)]:
        raise Lost("it copies samples")
    wide = np.broadcast_shapes(x.base.shape, tuple(shape))
    return x.each(lambda v: np.broadcast_to(v, wide), axis if axis is not None else own)


@evaluates("Tile")
def _tiled(node: Node, args: Sequence[Sized | None]) -> Sized:
    """A token repeated for each sample, as PyTorch's newer exporter writes ``repeat``."""
    x, repeats = _first(args), args[1]
    assert repeats is not None
    times, axis = list[int](), x.axis
    for i, (base, slope) in enumerate(repeats.terms()):
        if slope and (axis is not None or (base, slope) != (0, 1) or x.base.shape[i] != 1):
            raise Lost("it copies samples beside samples")
        axis = i if slope else axis
        times.append(1 if slope else int(base))
    if x.axis is not None and times[x.axis] != 1:
        raise Lost("it copies samples")
    return x.each(lambda v: np.tile(v, times), axis)


@evaluates("Range")
def _counted(node: Node, args: Sequence[Sized | None]) -> Sized:
    (start, _), (limit, slope), (delta, _) = (a.terms()[0] for a in args if a is not None)
    if not (args[0] and args[2] and args[0].constant and args[2].constant and delta) or limit != start or slope % delta:
        raise Lost("how many numbers it counts is no multiple of the batch size")
    each = slope // delta
    return Sized.of(start + delta * np.arange(each), axis=0, step=delta * each)
