"""Moves the batch to the first axis where a file has it elsewhere, or folds it into another axis, as PyTorch's attention does.

Bounds know one layout: the batch along the first axis. Where a file leaves it, Transpose and Reshape are tracked as other
arrangements of the axes of a batch-first tensor (``batch_layout.py``), and every other operator is rewritten to work on that
tensor, until the batch is in front again. Parity with the file decides whether the result is right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes.batch_layout import (
    BATCH,
    BatchFirstPass,
    BatchFirstValue,
    NoBatchFirstForm,
    Rewrite,
    permutation,
)
from pipeline.onnx.passes.linear import DOMAIN
from pipeline.onnx.probe import Probes


def batch_first(draft: Draft, probes: Probes, kinds: Mapping[str, str]) -> None:
    """Rewrite the nodes between the batch's leaving the first axis and its return; none where one of them cannot be rewritten.

    ``kinds``: what each computed value depends on (``probe.dependence``).
    """
    if probes.sizes:
        return  # measured sizes would become constants
    rewriting = BatchFirstPass(draft, probes.values[: 2 if probes.free else 1], kinds)
    try:
        new_nodes = list(rewriting.nodes(_rewrite))
    except NoBatchFirstForm:
        return
    draft.nodes = new_nodes
    draft.substitute(rewriting.aliases)


def _transpose(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.value_of(node.inputs[0])
    return replace(x, axes=tuple(x.axes[p] for p in permutation(node, len(x.axes))))


def _unsqueeze(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x, new = r.value_of(node.inputs[0]), r.numbers(node.input(1))
    axes = list(x.axes)
    for axis in sorted(a % (len(x.axes) + len(new)) for a in new):
        axes.insert(axis, ())
    return replace(x, axes=tuple(axes))


def _squeeze(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.value_of(node.inputs[0])
    squeezed_axes = {a % len(x.axes) for a in r.numbers(node.input(1))}
    if any(BATCH in x.axes[a] for a in squeezed_axes):
        raise NoBatchFirstForm
    return replace(x, axes=tuple(group for i, group in enumerate(x.axes) if i not in squeezed_axes))


def _reshape(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    """The factors of the axes in order, assigned to the new axes one by one; a factor larger than a new axis is split.

    A fixed batch of one becomes an axis of size one, or is folded in front of the axis that follows it, as for attention heads;
    it is not folded into the last axis, which holds features, unless that is the only one.
    """
    x, target_dims = r.value_of(node.inputs[0]), r.dims(node.output)
    factors = deque((a, x.sizes[a - 1] if a else 1) for group in x.axes for a in group)
    pieces: dict[int, list[int]] = {a: [] for a in range(1, len(x.sizes) + 1)}
    axes: list[list[tuple[int, int]]] = []
    for i, (holds_batch, full_size) in enumerate(target_dims):
        group: list[tuple[int, int]] = []
        size, axes_after = full_size, len(target_dims) - 1 - i
        while factors:
            axis, factor = factors.popleft()
            if axis == BATCH and (
                holds_batch
                or (
                    holds_batch is None
                    and (full_size == 1 or len(target_dims) == 1 or (axes_after > 0 if size > 1 else axes_after == 1))
                )
            ):
                group.append((BATCH, 0))
            elif axis != BATCH and factor == 1:
                continue
            elif size == 1:
                factors.appendleft((axis, factor))
                break
            else:
                part = math.gcd(factor, size)
                if axis == BATCH or part not in (factor, size):
                    raise NoBatchFirstForm
                if part < factor:
                    factors.appendleft((axis, factor // part))
                group.append((axis, len(pieces[axis])))
                pieces[axis].append(part)
                size //= part
        if size > 1 or (holds_batch and (BATCH, 0) not in group):
            raise NoBatchFirstForm
        axes.append(group)
    if any(axis == BATCH or factor > 1 for axis, factor in factors):
        raise NoBatchFirstForm
    number, sizes = {(BATCH, 0): BATCH}, []
    for axis, parts in pieces.items():
        for i, size in enumerate(parts or [1]):
            sizes.append(size)
            number[axis, i] = len(sizes)
    name = x.name if tuple(sizes) == x.sizes else r.emit(node, "Reshape", [x.name, r.reshape_target(sizes)], sizes)
    return BatchFirstValue(name, tuple(sizes), tuple(tuple(number[piece] for piece in group) for group in axes))


def _elementwise(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    """A pointwise operator of one value, and of constant scalars such as the ends of a Clip."""
    x = r.value_of(node.inputs[0])
    if any(v and r.constant(v).size > 1 for v in node.inputs[1:]):
        raise NoBatchFirstForm
    return replace(x, name=r.repeat(node, [x.name, *node.inputs[1:]], x.sizes))


def _pair(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    values = [None if v in r.draft.constants else r.canonical_value(v, node) for v in node.inputs]
    x, *others = [v for v in values if v is not None]
    if any(other.axes != x.axes for other in others):
        raise NoBatchFirstForm
    inputs = [v.name if v is not None else r.broadcast_constant(c, x) for v, c in zip(values, node.inputs, strict=True)]
    shapes = [r.constant(v).shape if v in r.draft.constants else r.draft.shapes[v] for v in inputs]
    sizes = np.broadcast_shapes(*shapes)[1:]
    return replace(x, name=r.repeat(node, inputs, sizes), sizes=sizes)


def _product(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x, y = (r.canonical_value(v, node) for v in node.inputs)
    last = len(x.axes) - 2
    if x.axes != y.axes or x.batch_axis >= last or x.sizes[:-2] != y.sizes[:-2]:
        raise NoBatchFirstForm
    sizes = (*x.sizes[:-1], y.sizes[-1])
    return replace(x, name=r.repeat(node, [x.name, y.name], sizes), sizes=sizes)


def _linear(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x, out = r.canonical_value(node.inputs[0], node), len(r.constant(node.inputs[1]))
    axis = x.tensor_axis(len(x.axes) - 1)
    name = r.emit(node, "Linear", [x.name, *node.inputs[1:]], (*x.sizes[:-1], out), DOMAIN)
    return x.with_size(name, axis, out)


def _softmax(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.canonical_value(node.inputs[0], node)
    axis = x.tensor_axis(node.attributes.get("axis", -1))
    return replace(x, name=r.repeat(node, [x.name], x.sizes, axis=axis))


def _layer_norm(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    """Over the last axes, which are also the last ones of the canonical tensor."""
    x = r.canonical_value(node.inputs[0], node)
    axis = node.attributes.get("axis", -1) % len(x.axes)
    if axis <= x.batch_axis:
        raise NoBatchFirstForm
    return replace(x, name=r.repeat(node, [x.name, *node.inputs[1:]], x.sizes, axis=axis - len(x.axes)))


def _gather(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.canonical_value(node.inputs[0], node)
    if len(x.axes) == 1:
        return _of_all_samples(r, node, x)
    index, axis = r.constant(node.inputs[1]), node.attributes.get("axis", 0) % len(x.axes)
    tensor_axis = x.tensor_axis(axis)
    if index.ndim > 1:
        raise NoBatchFirstForm
    result = x.without([axis]) if index.ndim == 0 else x.with_size("", tensor_axis, index.size)
    return replace(result, name=r.repeat(node, [x.name, node.inputs[1]], result.sizes, axis=tensor_axis))


def _slice(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.canonical_value(node.inputs[0], node)
    starts, ends = r.numbers(node.inputs[1]), r.numbers(node.inputs[2])
    axes = r.numbers(node.inputs[3]) if node.input(3) else range(len(starts))
    steps = r.numbers(node.inputs[4]) if node.input(4) else [1] * len(starts)
    result, tensor_axes = x, [x.tensor_axis(a % len(x.axes)) for a in axes]
    for axis, *bounds in zip(tensor_axes, starts, ends, steps, strict=True):
        result = result.with_size("", axis, len(range(*slice(*bounds).indices(x.sizes[axis - 1]))))
    inputs = [x.name, *node.inputs[1:3], r.draft.constant(np.array(tensor_axes, np.int64)), *node.inputs[4:]]
    return replace(result, name=r.repeat(node, inputs, result.sizes))


def _of_all_samples(r: BatchFirstPass, node: Node, x: BatchFirstValue) -> BatchFirstValue:
    """A Gather from all samples in one row, the same entries of each: how PyTorch's dynamo exporter writes ``as_strided``."""
    indices = [r.draft.constants.get(node.inputs[1], run.get(node.inputs[1])) for run in r.runs]
    length, first = math.prod(x.sizes), indices[0]
    if x.axes[0][0] != BATCH or first is None or first.ndim < 2 or not first.size:
        raise NoBatchFirstForm
    if not 0 <= first[0].min() <= first[0].max() < length:
        raise NoBatchFirstForm
    for samples, index in zip((2, 3) if len(r.runs) > 1 else (1,), indices, strict=True):
        starts = length * np.arange(samples).reshape(-1, *[1] * (first.ndim - 1))
        if index is None or not np.array_equal(index, starts + first[:1]):
            raise NoBatchFirstForm
    sizes = first.shape[1:]
    name = r.repeat(node, [x.name, r.draft.constant(first[0])], sizes, axis=1)
    return BatchFirstValue(name, sizes, tuple((i,) for i in range(first.ndim)))


def _reduce(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    x = r.canonical_value(node.inputs[0], node)
    axes = [a % len(x.axes) for a in node.attributes.get("axes") or r.numbers(node.input(1))]
    places = [x.tensor_axis(a) for a in axes]
    ones = tuple(1 if i in places else size for i, size in enumerate(x.sizes, 1))
    result = replace(x, sizes=ones) if node.attributes.get("keepdims", 1) else x.without(axes)
    if node.input(1):
        name = r.repeat(node, [x.name, r.draft.constant(np.array(places, np.int64))], result.sizes)
    else:
        name = r.repeat(node, [x.name], result.sizes, axes=places)
    return replace(result, name=name)


def _concat(r: BatchFirstPass, node: Node) -> BatchFirstValue:
    xs = [r.canonical_value(v, node) for v in node.inputs]
    axis = xs[0].tensor_axis(node.attributes["axis"])
    if any(x.axes != xs[0].axes for x in xs):
        raise NoBatchFirstForm
    result = xs[0].with_size("", axis, sum(x.sizes[axis - 1] for x in xs))
    return replace(result, name=r.repeat(node, [x.name for x in xs], result.sizes, axis=axis))


_REWRITES: dict[str, Rewrite] = {
    **{"Transpose": _transpose, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape},
    **{"Gather": _gather, "Slice": _slice},
    **{"MatMul": _product, "Gemm": _linear, "Linear": _linear, "Concat": _concat, "LayerNormalization": _layer_norm},
    **{"Clip": _elementwise, "Softmax": _softmax, "LogSoftmax": _softmax},
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
}


def _rewrite(operator: str) -> Rewrite | None:
    entry = TABLE.get(operator)
    if operator in _REWRITES or entry is None or not entry.pointwise:
        return _REWRITES.get(operator)
    return {1: _elementwise, 2: _pair}.get(entry.inputs or 0)
