"""The batch back in front, where a file moves it aside or folds it into another axis, as PyTorch's own attention does.

Bounds know one layout: samples along the first axis. Between where a file leaves it and where it returns to it, Transposes and
Reshapes move the axes of the file about, as products of those of a batch-first tensor (``laid.py``); every other operator works
on that tensor. Parity with the file decides whether it was right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes.batch_aside import BATCH, Laid, NotSaid, Rewrite, Rewriting, permutation
from pipeline.onnx.passes.linear import DOMAIN
from pipeline.onnx.probe import Probes


def batch_first(draft: Draft, probes: Probes, kinds: Mapping[str, str]) -> None:
    """Rewrites what stands between the batch's leaving the front and its return; nothing, where an operator is not known.

    ``kinds`` says of each computed value what it depends on (``probe.dependence``).
    """
    if probes.sizes:
        return  # the sizes that are measured would be written in
    rewriting = Rewriting(draft, probes.values[: 2 if probes.free else 1], kinds)
    try:
        nodes = list(rewriting.nodes(_rewrite))
    except NotSaid:
        return
    draft.nodes = nodes
    draft.substitute(rewriting.same)


def _transpose(r: Rewriting, node: Node) -> Laid:
    x = r.of(node.inputs[0])
    return replace(x, axes=tuple(x.axes[p] for p in permutation(node, len(x.axes))))


def _unsqueeze(r: Rewriting, node: Node) -> Laid:
    x, new = r.of(node.inputs[0]), r.numbers(node.input(1))
    axes = list(x.axes)
    for axis in sorted(a % (len(x.axes) + len(new)) for a in new):
        axes.insert(axis, ())
    return replace(x, axes=tuple(axes))


def _squeeze(r: Rewriting, node: Node) -> Laid:
    x = r.of(node.inputs[0])
    gone = {a % len(x.axes) for a in r.numbers(node.input(1))}
    if any(BATCH in x.axes[a] for a in gone):
        raise NotSaid
    return replace(x, axes=tuple(group for i, group in enumerate(x.axes) if i not in gone))


def _reshape(r: Rewriting, node: Node) -> Laid:
    """The factors of the axes in their order, taken for the new axes one by one; one that fits no new axis whole is split.

    A batch of one that is written into the file goes to an axis of size one, or is taken for slower than the axis that follows
    it, as heads are; with the last axis, which features fill, it never is, unless that is the only one.
    """
    x, wanted = r.of(node.inputs[0]), r.dims(node.output)
    left = deque((a, x.sizes[a - 1] if a else 1) for group in x.axes for a in group)
    pieces: dict[int, list[int]] = {a: [] for a in range(1, len(x.sizes) + 1)}
    axes: list[list[tuple[int, int]]] = []
    for i, (holds_batch, whole) in enumerate(wanted):
        group: list[tuple[int, int]] = []
        size, behind = whole, len(wanted) - 1 - i
        while left:
            axis, factor = left.popleft()
            if axis == BATCH and (
                holds_batch
                or (
                    holds_batch is None
                    and (whole == 1 or len(wanted) == 1 or (behind > 0 if size > 1 else behind == 1))
                )
            ):
                group.append((BATCH, 0))
            elif axis != BATCH and factor == 1:
                continue
            elif size == 1:
                left.appendleft((axis, factor))
                break
            else:
                taken = math.gcd(factor, size)
                if axis == BATCH or taken not in (factor, size):
                    raise NotSaid
                if taken < factor:
                    left.appendleft((axis, factor // taken))
                group.append((axis, len(pieces[axis])))
                pieces[axis].append(taken)
                size //= taken
        if size > 1 or (holds_batch and (BATCH, 0) not in group):
            raise NotSaid
        axes.append(group)
    if any(axis == BATCH or factor > 1 for axis, factor in left):
        raise NotSaid
    number, sizes = {(BATCH, 0): BATCH}, []
    for axis, found in pieces.items():
        for i, size in enumerate(found or [1]):
            sizes.append(size)
            number[axis, i] = len(sizes)
    name = x.name if tuple(sizes) == x.sizes else r.emit(node, "Reshape", [x.name, r.target(sizes)], sizes)
    return Laid(name, tuple(sizes), tuple(tuple(number[piece] for piece in group) for group in axes))


def _elementwise(r: Rewriting, node: Node) -> Laid:
    """Of one value, and of constant numbers such as the ends of a Clip."""
    x = r.of(node.inputs[0])
    if any(v and r.constant(v).size > 1 for v in node.inputs[1:]):
        raise NotSaid
    return replace(x, name=r.again(node, [x.name, *node.inputs[1:]], x.sizes))


def _pair(r: Rewriting, node: Node) -> Laid:
    settled = [None if v in r.draft.constants else r.settled(v, node) for v in node.inputs]
    x, *others = [v for v in settled if v is not None]
    if any(other.axes != x.axes for other in others):
        raise NotSaid
    inputs = [v.name if v is not None else r.beside(c, x) for v, c in zip(settled, node.inputs, strict=True)]
    shapes = [r.constant(v).shape if v in r.draft.constants else r.draft.shapes[v] for v in inputs]
    sizes = np.broadcast_shapes(*shapes)[1:]
    return replace(x, name=r.again(node, inputs, sizes), sizes=sizes)


def _product(r: Rewriting, node: Node) -> Laid:
    x, y = (r.settled(v, node) for v in node.inputs)
    last = len(x.axes) - 2
    if x.axes != y.axes or x.batch >= last or x.sizes[:-2] != y.sizes[:-2]:
        raise NotSaid
    sizes = (*x.sizes[:-1], y.sizes[-1])
    return replace(x, name=r.again(node, [x.name, y.name], sizes), sizes=sizes)


def _linear(r: Rewriting, node: Node) -> Laid:
    x, out = r.settled(node.inputs[0], node), len(r.constant(node.inputs[1]))
    place = x.place(len(x.axes) - 1)
    name = r.emit(node, "Linear", [x.name, *node.inputs[1:]], (*x.sizes[:-1], out), DOMAIN)
    return x.resized(name, place, out)


def _softmax(r: Rewriting, node: Node) -> Laid:
    x = r.settled(node.inputs[0], node)
    place = x.place(node.attributes.get("axis", -1))
    return replace(x, name=r.again(node, [x.name], x.sizes, axis=place))


def _layer_norm(r: Rewriting, node: Node) -> Laid:
    """Over the last axes, which are the last of the settled tensor too."""
    x = r.settled(node.inputs[0], node)
    axis = node.attributes.get("axis", -1) % len(x.axes)
    if axis <= x.batch:
        raise NotSaid
    return replace(x, name=r.again(node, [x.name, *node.inputs[1:]], x.sizes, axis=axis - len(x.axes)))


def _gather(r: Rewriting, node: Node) -> Laid:
    x = r.settled(node.inputs[0], node)
    if len(x.axes) == 1:
        return _of_all_samples(r, node, x)
    index, axis = r.constant(node.inputs[1]), node.attributes.get("axis", 0) % len(x.axes)
    place = x.place(axis)
    if index.ndim > 1:
        raise NotSaid
    found = x.without([axis]) if index.ndim == 0 else x.resized("", place, index.size)
    return replace(found, name=r.again(node, [x.name, node.inputs[1]], found.sizes, axis=place))


def _of_all_samples(r: Rewriting, node: Node, x: Laid) -> Laid:
    """Entries of the one row of all samples, the same of each: how PyTorch's default exporter writes a view by strides."""
    seen = [r.draft.constants.get(node.inputs[1], run.get(node.inputs[1])) for run in r.runs]
    length, first = math.prod(x.sizes), seen[0]
    if x.axes[0][0] != BATCH or first is None or first.ndim < 2 or not first.size:
        raise NotSaid
    if not 0 <= first[0].min() <= first[0].max() < length:
        raise NotSaid
    for samples, index in zip((2, 3) if len(r.runs) > 1 else (1,), seen, strict=True):
        starts = length * np.arange(samples).reshape(-1, *[1] * (first.ndim - 1))
        if index is None or not np.array_equal(index, starts + first[:1]):
            raise NotSaid
    sizes = first.shape[1:]
    name = r.again(node, [x.name, r.draft.constant(first[0])], sizes, axis=1)
    return Laid(name, sizes, tuple((i,) for i in range(first.ndim)))


def _reduce(r: Rewriting, node: Node) -> Laid:
    x = r.settled(node.inputs[0], node)
    axes = [a % len(x.axes) for a in node.attributes.get("axes") or r.numbers(node.input(1))]
    places = [x.place(a) for a in axes]
    ones = tuple(1 if i in places else size for i, size in enumerate(x.sizes, 1))
    found = replace(x, sizes=ones) if node.attributes.get("keepdims", 1) else x.without(axes)
    if node.input(1):
        name = r.again(node, [x.name, r.draft.constant(np.array(places, np.int64))], found.sizes)
    else:
        name = r.again(node, [x.name], found.sizes, axes=places)
    return replace(found, name=name)


def _concat(r: Rewriting, node: Node) -> Laid:
    xs = [r.settled(v, node) for v in node.inputs]
    place = xs[0].place(node.attributes["axis"])
    if any(x.axes != xs[0].axes for x in xs):
        raise NotSaid
    found = xs[0].resized("", place, sum(x.sizes[place - 1] for x in xs))
    return replace(found, name=r.again(node, [x.name for x in xs], found.sizes, axis=place))


_REWRITES: dict[str, Rewrite] = {
    **{"Transpose": _transpose, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Reshape": _reshape, "Gather": _gather},
    **{"MatMul": _product, "Gemm": _linear, "Linear": _linear, "Concat": _concat, "LayerNormalization": _layer_norm},
    **{"Clip": _elementwise, "Softmax": _softmax, "LogSoftmax": _softmax},
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
}


def _rewrite(operator: str) -> Rewrite | None:
    entry = TABLE.get(operator)
    if operator in _REWRITES or entry is None or not entry.pointwise:
        return _REWRITES.get(operator)
    return {1: _elementwise, 2: _pair}.get(entry.inputs or 0)
