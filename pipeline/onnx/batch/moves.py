"""Batch-axis rules of operators that move, select, copy or join entries."""

from __future__ import annotations

import math

from pipeline.onnx.batch.axis import BatchAxis, Untraceable, axis_of, reshape_batch_axis
from pipeline.onnx.batch.registry import batch_rule
from pipeline.onnx.batch.rules import after_reduction, first_operand, not_along
from pipeline.onnx.batch.symbolic import Symbolic
from pipeline.onnx.batch.trace import BatchTrace
from pipeline.onnx.ir import Node

WITHOUT_END = (1 << 31) - 1
"""An ``end`` of a Slice that is at least this means the end of the axis."""


@batch_rule("Transpose")
def _transpose(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    perm = list(node.attributes.peek("perm") or range(len(shape))[::-1])
    return batch.with_axis(perm.index(batch.axis))


@batch_rule("Reshape")
def _reshape(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = trace.batch_axis(node.inputs[0]), trace.sample_shape(node.inputs[0])
    attribute = node.attributes.peek("shape")
    target = [(int(d), 0) for d in attribute] if attribute is not None else trace.sizes(node.inputs[1]).terms()
    result, _ = reshape_batch_axis(shape, batch, target, bool(node.attributes.peek("allowzero", 0)))
    assert result is not None
    return result


@batch_rule("Flatten")
def _flatten(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    axis = node.attributes.peek("axis", 1)
    axis += len(shape) if axis < 0 else 0
    before, after = math.prod(shape[:axis]), math.prod(shape[axis:])
    result, _ = reshape_batch_axis(shape, batch, [(-1, 0), (after, 0)] if batch.axis < axis else [(before, 0), (-1, 0)])
    assert result is not None
    return result


@batch_rule("Squeeze")
def _squeeze(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    axes = trace.numbers(node, "axes", 1)
    if axes is None:
        raise Untraceable("it names no axes, and takes that of the samples away where there is one sample")
    return after_reduction(batch, [a % len(shape) for a in axes], keepdims=0)


@batch_rule("Unsqueeze")
def _unsqueeze(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    axes = trace.numbers(node, "axes", 1) or []
    axis = batch.axis
    for a in sorted(a % (len(shape) + len(axes)) for a in axes):
        axis += a <= axis
    return batch.with_axis(axis)


@batch_rule("Slice")
def _slice(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = trace.batch_axis(node.inputs[0]), trace.sample_shape(node.inputs[0])
    assert batch is not None
    starts, ends, axes, steps = (
        None if at is None else trace.sizes(at).terms() if isinstance(at, str) else [(int(v), 0) for v in at]
        for at in (node.attributes.peek(n, node.input(i + 1) or None) for i, n in enumerate(_SLICE))
    )
    assert starts is not None
    assert ends is not None
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[i] if axes else (i, 0)), (steps[i] if steps else (1, 0))
        if axis[1]:
            raise Untraceable("its axes depend on the batch size")
        if axis[0] % len(shape) != batch.axis:
            if start[1] or step[1] or end[1] < 0 or (end[1] and end[0] + end[1] < shape[int(axis[0])]):
                raise Untraceable("what it takes depends on the batch size")
        elif start != (0, 0) or step != (1, 0) or not (end[0] >= WITHOUT_END or (end[0] >= 0 and _covers(end, batch))):
            raise Untraceable(
                f"it takes a part of axis {batch.axis}, which holds the samples of the batch, or turns it round"
            )
    return batch


_SLICE = ("starts", "ends", "axes", "steps")


def _covers(size: tuple[int, int], batch: BatchAxis) -> bool:
    """Whether ``base + slope N`` is at least the length of the batch axis."""
    return size[1] >= batch.outer * batch.inner


def _whole(size: tuple[int, int], batch: BatchAxis) -> bool:
    """Whether ``base + slope N`` is exactly the length of the batch axis."""
    return size == (0, batch.outer * batch.inner)


@batch_rule("Split")
def _split(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return not_along(batch, [axis_of(node, 0, len(shape))])


@batch_rule("Concat")
def _concat(trace: BatchTrace, node: Node) -> BatchAxis:
    rank = len(trace.sample_shape(node.inputs[0]))
    axis, places = axis_of(node, 1, rank), {trace.batch_axis(v) for v in node.inputs}
    batch, *others = [p for p in places if p is not None]
    if others:
        raise Untraceable("the samples of its operands stand in different axes")
    for value in node.inputs:
        if trace.batch_axis(value) is None and not (trace.normal and trace.sample_shape(value)[batch.axis] == 1):
            raise Untraceable("it joins a constant that does not have an entry for each sample")
    return not_along(batch, [axis])


@batch_rule("Gather")
def _gather(trace: BatchTrace, node: Node) -> BatchAxis:
    x, index = node.inputs
    axis = axis_of(node, 0, len(trace.sample_shape(x)))
    batch = trace.batch_axis(x)
    if index in trace.symbolic and batch is not None:
        return _of_all_samples(trace.symbolic[index], batch, axis)
    index_batch = trace.batch_axis(index)
    if index_batch is not None:
        if batch is not None:
            raise Untraceable("it picks entries by numbers that are computed from data")
        return index_batch.with_axis(axis + index_batch.axis)
    assert batch is not None
    not_along(batch, [axis])
    return batch if batch.axis < axis else batch.with_axis(batch.axis + len(trace.sample_shape(index)) - 1)


@batch_rule("OneHot")
def _one_hot(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return batch.with_axis(batch.axis + (axis_of(node, -1, len(shape) + 1) <= batch.axis))


@batch_rule("GatherND")
def _gather_nd(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, _ = first_operand(trace, node)
    depth, before = trace.sample_shape(node.inputs[1])[-1], node.attributes.peek("batch_dims", 0)
    not_along(batch, range(before + depth))
    return batch.with_axis(batch.axis - before - depth + len(trace.sample_shape(node.inputs[1])) - 1)


@batch_rule("ScatterND")
def _scatter_nd(trace: BatchTrace, node: Node) -> BatchAxis:
    data, indices, updates = node.inputs
    depth, rank = trace.sample_shape(indices)[-1], len(trace.sample_shape(indices)) - 1
    if trace.batch_axis(indices) is not None:
        raise Untraceable("it puts entries at places that are computed from data")
    batch, other = trace.batch_axis(data), trace.batch_axis(updates)
    if batch is None or other is None or batch != other.with_axis(other.axis - rank + depth):
        raise Untraceable("data and updates do not both have an entry for each sample")
    return not_along(batch, range(depth))


def _of_all_samples(index: Symbolic, batch: BatchAxis, axis: int) -> BatchAxis:
    """A Gather along the batch axis that reads from each sample its own entries.

    PyTorch's default exporter writes ``as_strided`` so: as a Gather from all samples in one row.
    """
    per_sample = index.axis is not None and not index.slope.any() and batch.outer == 1 and axis == batch.axis
    if (
        not per_sample
        or not (index.step == batch.inner).all()
        or not ((index.base >= 0) & (index.base < batch.inner)).all()
    ):
        raise Untraceable(f"it picks entries along axis {batch.axis}, which holds the samples of the batch")
    assert index.axis is not None
    return BatchAxis(axis + index.axis, 1, index.base.shape[index.axis])


@batch_rule("Pad")
def _pad(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    pads = trace.numbers(node, "pads", 1) or trace.numbers(node, "paddings", 1) or []
    axes = trace.numbers(node, "", 3)
    padded_axes = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
    padding = [a for i, a in enumerate(padded_axes) if pads[i] or pads[i + len(pads) // 2]]
    return not_along(batch, padding)


@batch_rule("Expand")
def _expand(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape, target = (
        trace.batch_axis(node.inputs[0]),
        trace.sample_shape(node.inputs[0]),
        trace.sizes(node.inputs[1]).terms(),
    )
    assert batch is not None
    rank = max(len(shape), len(target))
    batch = batch.with_axis(batch.axis + rank - len(shape))
    for i, size in enumerate(target, rank - len(target)):
        if (i == batch.axis and size != (1, 0) and not _whole(size, batch)) or (i != batch.axis and size[1]):
            raise Untraceable("it copies samples, or as often as there are samples")
    return batch


@batch_rule("Trilu")
def _triangle(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = first_operand(trace, node)
    return not_along(batch, [len(shape) - 2, len(shape) - 1])


@batch_rule("Tile")
def _tile(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, _ = first_operand(trace, node)
    repeats = trace.numbers(node, "", 1) or []
    return not_along(batch, [i for i, n in enumerate(repeats) if n != 1])


@batch_rule("Resize", "Upsample")
def _resize(trace: BatchTrace, node: Node) -> BatchAxis:
    batch, shape = trace.batch_axis(node.inputs[0]), trace.sample_shape(node.inputs[0])
    assert batch is not None
    newer = trace.opset >= 11 and node.op_type == "Resize"
    scales = node.attributes.peek("scales") or (
        trace.sizes(v).terms() if (v := node.input(2 if newer else 1)) else None
    )
    listed_axes = node.attributes.peek("axes")
    axes = list(range(len(shape))) if listed_axes is None else [a % len(shape) for a in listed_axes]
    sizes = trace.sizes(node.input(3)).terms() if newer and node.input(3) else []
    for axis, size in zip(axes, sizes, strict=False):
        if not _whole(size, batch) if axis == batch.axis else size[1]:
            raise Untraceable("it resizes the batch, or to a size that depends on the batch size")
    for axis, scale in zip(axes, scales or [], strict=False):
        factor, slope = scale if isinstance(scale, tuple) else (scale, 0)
        if slope or (axis == batch.axis and factor != 1):
            raise Untraceable("it resizes the batch, or by a factor that depends on the batch size")
    return batch
