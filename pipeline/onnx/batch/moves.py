"""The rules of ``batch_axis.py`` for operators that move, pick, copy or join entries."""

from __future__ import annotations

import math

from pipeline.onnx.batch.axis import Tracing, follows
from pipeline.onnx.batch.place import Lost, Place, axis_of, resized
from pipeline.onnx.batch.rules import apart, first, without
from pipeline.onnx.batch.sizes import Sized
from pipeline.onnx.ir import Node

WITHOUT_END = (1 << 31) - 1
"""From here on the end of a Slice is the end of the axis."""


@follows("Transpose")
def _transposed(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    perm = list(node.attributes.peek("perm") or range(len(share))[::-1])
    return place.at(perm.index(place.axis))


@follows("Reshape")
def _reshaped(t: Tracing, node: Node) -> Place:
    place, share = t.place(node.inputs[0]), t.share(node.inputs[0])
    shape = node.attributes.peek("shape")
    target = [(int(d), 0) for d in shape] if shape is not None else t.sizes(node.inputs[1]).terms()
    found, _ = resized(share, place, target, bool(node.attributes.peek("allowzero", 0)))
    assert found is not None
    return found


@follows("Flatten")
def _flattened(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    axis = node.attributes.peek("axis", 1)
    axis += len(share) if axis < 0 else 0
    before, after = math.prod(share[:axis]), math.prod(share[axis:])
    found, _ = resized(share, place, [(-1, 0), (after, 0)] if place.axis < axis else [(before, 0), (-1, 0)])
    assert found is not None
    return found


@follows("Squeeze")
def _squeezed(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    axes = t.numbers(node, "axes", 1)
    if axes is None:
        raise Lost("it names no axes, and takes that of the samples away where there is one sample")
    return without(place, [a % len(share) for a in axes], kept=0)


@follows("Unsqueeze")
def _unsqueezed(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    axes = t.numbers(node, "axes", 1) or []
    axis = place.axis
    for a in sorted(a % (len(share) + len(axes)) for a in axes):
        axis += a <= axis
    return place.at(axis)


@follows("Slice")
def _sliced(t: Tracing, node: Node) -> Place:
    place, share = t.place(node.inputs[0]), t.share(node.inputs[0])
    assert place is not None
    starts, ends, axes, steps = (
        None if at is None else t.sizes(at).terms() if isinstance(at, str) else [(int(v), 0) for v in at]
        for at in (node.attributes.peek(n, node.input(i + 1) or None) for i, n in enumerate(_SLICE))
    )
    assert starts is not None
    assert ends is not None
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[i] if axes else (i, 0)), (steps[i] if steps else (1, 0))
        if axis[1]:
            raise Lost("its axes depend on the batch size")
        if axis[0] % len(share) != place.axis:
            if start[1] or step[1] or end[1] < 0 or (end[1] and end[0] + end[1] < share[int(axis[0])]):
                raise Lost("what it takes depends on the batch size")
        elif start != (0, 0) or step != (1, 0) or not (end[0] >= WITHOUT_END or (end[0] >= 0 and _covers(end, place))):
            raise Lost(f"it takes a part of axis {place.axis}, which holds the samples of the batch, or turns it round")
    return place


_SLICE = ("starts", "ends", "axes", "steps")


def _covers(size: tuple[int, int], place: Place) -> bool:
    """Whether ``base + slope N`` is at least the axis of the samples."""
    return size[1] >= place.outer * place.inner


def _whole(size: tuple[int, int], place: Place) -> bool:
    """Whether ``base + slope N`` is exactly the axis of the samples."""
    return size == (0, place.outer * place.inner)


@follows("Split")
def _split(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    return apart(place, [axis_of(node, 0, len(share))])


@follows("Concat")
def _joined(t: Tracing, node: Node) -> Place:
    rank = len(t.share(node.inputs[0]))
    axis, places = axis_of(node, 1, rank), {t.place(v) for v in node.inputs}
    place, *others = [p for p in places if p is not None]
    if others:
        raise Lost("the samples of its operands stand in different axes")
    for value in node.inputs:
        if t.place(value) is None and not (t.normal and t.share(value)[place.axis] == 1):
            raise Lost("it joins a constant that does not have an entry for each sample")
    return apart(place, [axis])


@follows("Gather")
def _gathered(t: Tracing, node: Node) -> Place:
    x, index = node.inputs
    axis = axis_of(node, 0, len(t.share(x)))
    place = t.place(x)
    if index in t.sized and place is not None:
        return _of_all_samples(t.sized[index], place, axis)
    chosen = t.place(index)
    if chosen is not None:
        if place is not None:
            raise Lost("it picks entries by numbers that are computed from data")
        return chosen.at(axis + chosen.axis)
    assert place is not None
    apart(place, [axis])
    return place if place.axis < axis else place.at(place.axis + len(t.share(index)) - 1)


def _of_all_samples(index: Sized, place: Place, axis: int) -> Place:
    """Entries of the one row of all samples, each from its own: how PyTorch's default exporter writes a view by strides."""
    own = index.axis is not None and not index.slope.any() and place.outer == 1 and axis == place.axis
    if not own or not (index.step == place.inner).all() or not ((index.base >= 0) & (index.base < place.inner)).all():
        raise Lost(f"it picks entries along axis {place.axis}, which holds the samples of the batch")
    assert index.axis is not None
    return Place(axis + index.axis, 1, index.base.shape[index.axis])


@follows("Pad")
def _padded(t: Tracing, node: Node) -> Place:
    place, share = first(t, node)
    pads = t.numbers(node, "pads", 1) or t.numbers(node, "paddings", 1) or []
    axes = t.numbers(node, "", 3)
    places = range(len(share)) if axes is None else [a % len(share) for a in axes]
    used = [a for i, a in enumerate(places) if pads[i] or pads[i + len(pads) // 2]]
    return apart(place, used)


@follows("Expand")
def _expanded(t: Tracing, node: Node) -> Place:
    place, share, target = t.place(node.inputs[0]), t.share(node.inputs[0]), t.sizes(node.inputs[1]).terms()
    assert place is not None
    rank = max(len(share), len(target))
    place = place.at(place.axis + rank - len(share))
    for i, size in enumerate(target, rank - len(target)):
        if (i == place.axis and size != (1, 0) and not _whole(size, place)) or (i != place.axis and size[1]):
            raise Lost("it copies samples, or as often as there are samples")
    return place


@follows("Tile")
def _tiled(t: Tracing, node: Node) -> Place:
    place, _ = first(t, node)
    repeats = t.numbers(node, "", 1) or []
    return apart(place, [i for i, n in enumerate(repeats) if n != 1])


@follows("Resize", "Upsample")
def _sampled(t: Tracing, node: Node) -> Place:
    place, share = t.place(node.inputs[0]), t.share(node.inputs[0])
    assert place is not None
    late = t.opset >= 11 and node.op_type == "Resize"
    given = node.attributes.peek("scales") or (t.sizes(v).terms() if (v := node.input(2 if late else 1)) else None)
    named = node.attributes.peek("axes")
    axes = list(range(len(share))) if named is None else [a % len(share) for a in named]
    sizes = t.sizes(node.input(3)).terms() if late and node.input(3) else []
    for axis, size in zip(axes, sizes, strict=False):
        if not _whole(size, place) if axis == place.axis else size[1]:
            raise Lost("it resizes the batch, or to a size that depends on the batch size")
    for axis, scale in zip(axes, given or [], strict=False):
        factor, slope = scale if isinstance(scale, tuple) else (scale, 0)
        if slope or (axis == place.axis and factor != 1):
            raise Lost("it resizes the batch, or by a factor that depends on the batch size")
    return place
