"""Lowerings of operators that move or select entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.core.network import SHAPE
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.operators import Unsupported

SOURCE = "source"
"""Key in an fx node's meta: the shape of a Reshape's input."""


@operator("Reshape", reads=["allowzero"], inputs=2)
def _reshape(item: Item) -> fx.Node:
    shape = item.ints(1)
    assert shape is not None
    if item.flag("allowzero") and 0 in shape:
        raise Unsupported("it makes an empty value (allowzero)")
    return _emit_reshape(item, shape)


def _emit_reshape(item: Item, shape: Sequence[int]) -> fx.Node:
    """A Reshape, with 0 for a batch that it keeps; of two in a row the last alone, so that the batch is not moved twice."""
    x, before, after = item.arg(), item.shape(), item.build.shapes[item.node.outputs[0]]
    if SOURCE in x.meta and 0 not in shape:
        x, before = x.all_input_nodes[0], x.meta[SOURCE]
    if len(after) > 1 and before[:1] == after[:1] and (shape[0] == -1 or not item.build.free):
        shape = [0, *shape[1:]]
    node = item.build.emit(ops.Reshape(shape), x)
    node.meta[SOURCE] = before
    return node


@operator("Softmax", "LogSoftmax", reads=["axis"])
def _softmax(item: Item) -> fx.Node:
    """Along the last axis it is moved before a Reshape that only folds the axes before, so that the batch stays in front."""
    x, module = item.arg(), item.module()
    source, shape = x.meta.get(SOURCE, ()), item.shape()
    last = module.dim in (-1, len(shape) - 1)
    if not last or not source or source[0] == shape[0] or source[-1] != shape[-1]:
        return item.build.emit(module, x)
    module.dim = -1
    y = item.build.emit(module, x.all_input_nodes[0])
    y.meta[SHAPE] = source
    node = item.build.emit(ops.Reshape([-1, *shape[1:]]), y)
    node.meta[SOURCE] = source
    return node


@operator("Flatten", reads=["axis"])
def _flatten(item: Item) -> fx.Node:
    shape = item.shape()
    axis = item.attribute("axis")
    axis += len(shape) if axis < 0 else 0
    if axis == 1 and len(shape) > 1:
        return item.build.emit(nn.Flatten(), item.arg())
    return _emit_reshape(item, [1, -1] if axis == 0 else [-1, math.prod(shape[axis:])])


@operator("Transpose", reads=["perm"])
def _transpose(item: Item) -> fx.Node:
    """Two in a row are composed, so that the batch is not moved twice."""
    x, perm = item.arg(), item.attribute("perm") or list(range(len(item.shape())))[::-1]
    inner = item.build.module_of(x)
    if isinstance(inner, ops.Transpose):
        x, perm = x.all_input_nodes[0], [inner.perm[p] for p in perm]
    return item.build.emit(ops.Transpose(perm), x)


@operator("Squeeze", reads=["axes"], inputs=2)
def _squeeze(item: Item) -> fx.Node:
    axes, shape = item.ints(1), item.shape()
    if axes is None and item.build.free:
        raise Unsupported("without axes it removes the batch where that is one sample; give it axes")
    removed = [i for i, d in enumerate(shape) if d == 1] if axes is None else sorted({a % len(shape) for a in axes})
    return item.build.emit(ops.Squeeze(removed), item.arg())


@operator("Unsqueeze", reads=["axes"], inputs=2)
def _unsqueeze(item: Item) -> fx.Node:
    return item.build.emit(ops.Unsqueeze(item.ints(1) or []), item.arg())


@operator("Slice", reads=["starts", "ends", "axes"], inputs=5)
def _slice(item: Item) -> fx.Node:
    starts, ends = item.ints(1) or [], item.ints(2) or []
    axes, steps = item.ints(3), item.ints(4)
    axes = list(range(len(starts))) if axes is None else axes
    return item.build.emit(ops.Slice(starts, ends, axes, [1] * len(starts) if steps is None else steps), item.arg())


@operator("Split", reads=["axis", "split", "num_outputs"], inputs=2, outputs=None)
def _split(item: Item) -> list[fx.Node]:
    sizes, axis = item.ints(1), item.attribute("axis")
    assert sizes is not None
    ends = [int(e) for e in np.cumsum(sizes)]
    return [
        item.build.emit(ops.Slice([end - size], [end], [axis], [1]), item.arg())
        for size, end in zip(sizes, ends, strict=True)
    ]


@operator("Concat", reads=["axis"], inputs=None)
def _concat(item: Item) -> fx.Node:
    return item.build.emit(ops.Concat(item.attribute("axis")), *item.args())


@operator("Gather", reads=["axis"], inputs=2)
def _gather(item: Item) -> fx.Node:
    if item.varies(1) and not item.varies(0):
        return item.build.emit(ops.Take(item.attribute("axis")), item.arg(0), item.arg(1))
    indices = item.array(1)
    return item.build.emit(ops.Gather(torch.from_numpy(np.array(indices)), item.attribute("axis")), item.arg())


@operator("OneHot", reads=["axis"], inputs=3)
def _one_hot(item: Item) -> fx.Node:
    depth, values = item.ints(1), item.array(2)
    assert depth is not None
    assert values is not None
    if item.build.dtype(item.node.inputs[0]).is_floating_point:
        raise Unsupported("its indices are no whole numbers")
    if len(depth) != 1 or depth[0] < 1:
        raise Unsupported("its depth is no positive number")
    return item.build.emit(ops.OneHot(depth[0], torch.from_numpy(np.array(values)), item.attribute("axis")), item.arg())


_PADDINGS = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
"""Padding modes: ONNX's names and torch's."""


@operator("Pad", reads=["mode", "pads", "value"], inputs=4)
def _pad(item: Item) -> fx.Node:
    pads, value, axes = item.ints(1), item.array(2), item.ints(3)
    rank = len(item.shape())
    mode = _PADDINGS.get(item.attribute("mode"))
    if pads is None or mode is None:
        raise Unsupported("its mode is not constant, reflect, edge or wrap")
    padded_axes = list(range(rank)) if axes is None else [a % rank for a in axes]
    begins, ends = (
        dict(zip(padded_axes, pads, strict=False)),
        dict(zip(padded_axes, pads[len(padded_axes) :], strict=True)),
    )
    order = [p for axis in reversed(range(rank)) for p in (begins.get(axis, 0), ends.get(axis, 0))]
    # torch repeats and reflects along all axes behind the channels, or not at all.
    least = 2 if mode == "constant" else max(2, 2 * (rank - 2))
    while len(order) > least and order[-2:] == [0, 0]:
        order = order[:-2]
    if mode != "constant" and (rank - len(order) // 2 < 1 or len(order) > 6):
        raise Unsupported("it reflects or repeats along the batch, or along more than three axes")
    if mode == "circular" and (rank < 3 or any(p < 0 for p in pads)):
        raise Unsupported("it wraps a vector, or cuts off where it wraps")
    if mode == "circular" and any(max(begins[a], ends[a]) > item.shape()[a] for a in begins):
        raise Unsupported("it wraps more than once around an axis")
    fill_value = 0.0 if value is None else float(value.reshape(()))
    return item.build.emit(ops.Pad(order, mode=mode, value=fill_value), item.arg())


@operator("Expand", inputs=2)
def _expand(item: Item) -> fx.Node:
    return item.build.emit(ops.Expand(item.ints(1) or []), item.arg())


@operator("Einsum", reads=["equation"], inputs=None)
def _einsum(item: Item) -> fx.Node:
    """Of those that ``passes/einsum.py`` did not rewrite to MatMul."""
    raise Unsupported("its equation is not that of one matrix product")


@operator("GatherND", reads=["batch_dims"], inputs=2)
@operator("ScatterND", reads=["reduction"], inputs=3)
def _nd_indices(item: Item) -> fx.Node:
    """Of those that ``passes/nd_indices.py`` did not rewrite to Gather."""
    raise Unsupported(
        "its indices are computed, repeated, or among samples; or what is there already counts (reduction, batch_dims)"
    )


@operator("Trilu", reads=["upper"], inputs=2)
def _triangle(item: Item) -> fx.Node:
    """``x`` on one side of a diagonal of the last two axes, 0 on the other."""
    shape, k = item.shape(), (item.ints(1) or [0])[0]
    if len(shape) < 3 or item.build.dtype(item.node.inputs[0]) != torch.float32:
        raise Unsupported("it is of matrices one of whose axes is the batch, or of other numbers than float32")
    rows, columns = shape[-2:]
    offset = torch.arange(columns) - torch.arange(rows).reshape(-1, 1)
    keep = offset >= k if item.flag("upper") else offset <= k
    zero = item.build.literal(0.0, torch.float32)
    return item.build.emit(ops.Where(), item.build.literal(keep, torch.bool), item.arg(), zero)


@operator("Tile", inputs=2)
def _tile(item: Item) -> fx.Node:
    return item.build.emit(ops.Tile(item.ints(1) or []), item.arg())
