"""Pooling and resizing in other layouts, padding joined to pooling, and slices cut by one Split."""

from __future__ import annotations

import numpy as np

from pipeline.onnx.executed.activations import clip_ends
from pipeline.onnx.executed.graphs import NCHWC, Graph, GraphOperator
from pipeline.onnx.executed.layers import joined, same_padding, zero_pads
from pipeline.onnx.executed.matching import RESHAPES, Matching, Pair, Steps, behind, copied, rewriting
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED

POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
SIZES = ("kernel_shape", "strides", "dilations", "ceil_mode", "storage_order")
NONNEGATIVE = ("Relu", "Abs", "HardSigmoid")
KEEP_SIGNS = (*POOLS, *RESHAPES, "Transpose", "Concat", "Add", "Mul", "Sum", "Max", "Pad")


@rewriting(*POOLS, *(NCHWC + name for name in POOLS))
def pooling(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """The file's own pooling, in any layout; zeros padded before it may be its own padding where that is the same.

    MaxPool pads with minus infinity, so what it reads must be nonnegative and its windows reach the picture; AveragePool must
    count what it pads.
    """
    blocked = own.type.startswith(NCHWC)
    if pair.view != (BLOCKED if blocked else AS_IT_IS) or index:
        return False
    file, layer = behind(at.file, pair.file)
    if layer is None or layer.type != own.plain_type or layer.outputs[0] != file:
        return False
    if any(_setting(own, name) != _setting(layer, name) for name in SIZES):
        return False
    counted = [o.attributes.get("count_include_pad", 0) for o in (own, layer)]
    if same_padding(own, layer):
        if counted[0] != counted[1] and not _pads_nothing(own):
            return at.because(own, "it counts padding where the file does not")
        return (yield Pair(own.inputs[0], layer.inputs[0], pair.view))
    _, pad = behind(at.file, layer.inputs[0])
    before = zero_pads(at, pad) if pad is not None and pad.type == "Pad" else None
    if pad is None or before is None or not joined(own, layer, before):
        return at.because(own, "its padding is not that of the file")
    if not any(before) and (_pads_nothing(own) or counted[0] == counted[1]):
        return (yield Pair(own.inputs[0], pad.inputs[0], pair.view))
    if own.attributes.get("ceil_mode", 0):
        return at.because(own, "padding is joined to a pooling that rounds its size up")
    if own.plain_type == "AveragePool" and not (
        counted[0] and (counted[1] or not any(layer.attributes.get("pads", ())))
    ):
        return at.because(own, "zeros that the file averages are left out of the average")
    if own.plain_type == "MaxPool":
        kernel = own.attributes["kernel_shape"]
        if any(2 * p > k for p, k in zip(own.attributes["pads"], (*kernel, *kernel), strict=True)):
            return at.because(own, "its windows may lie in padding alone")
        if not nonnegative(at.file, pad.inputs[0]):
            return at.because(own, "it pads with minus infinity where the file pads with zero")
    return (yield Pair(own.inputs[0], pad.inputs[0], pair.view))


def _pads_nothing(own: GraphOperator) -> bool:
    """Whether no window reaches beyond what is read."""
    explicit = own.attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return explicit and not any(own.attributes.get("pads", ())) and not own.attributes.get("ceil_mode", 0)


def _setting(own: GraphOperator, name: str) -> object:
    value = own.attributes.get(name)
    neutral = (1,) if name in ("strides", "dilations") else (0,)
    return None if value is None or set(np.atleast_1d(np.asarray(value)).tolist()) <= set(neutral) else value


def nonnegative(graph: Graph, value: str) -> bool:
    """Whether no entry of a value can be negative, as far as the operators before it say."""
    pending, seen = [value], set[str]()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in graph.constants:
            array = graph.constants[value]
            if array.dtype.kind == "f" and not (array >= 0).all():
                return False
            continue
        own = graph.producer(value)
        if own is None:
            return False
        if own.type in NONNEGATIVE:
            continue
        inner = copied(graph, value)
        if inner is not None:
            pending.append(inner)
        elif own.type == "Clip":
            if not _clipped(graph, own):
                return False
        elif own.type in KEEP_SIGNS:
            pending.extend(own.inputs if own.type in ("Concat", "Add", "Mul", "Sum", "Max") else own.inputs[:1])
            if own.type == "Pad" and own.input(2):
                pending.append(own.input(2))
            if own.type == "Pad" and own.attributes.get("value", 0.0) < 0:  # up to opset 10
                return False
        else:
            return False
    return True


def _clipped(graph: Graph, own: GraphOperator) -> bool:
    """Of ends that cross the upper one is the result."""
    ends = clip_ends(graph, own)
    return ends is not None and min(ends) >= 0


@rewriting(NCHWC + "Upsample")
def upsampling(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """Resize by whole factors: nearest as it is, linear with the same coordinates."""
    _, layer = behind(at.file, pair.file)
    if not pair.view.blocked or layer is None or layer.type not in ("Resize", "Upsample"):
        return False
    scales = layer.input(2) if layer.type == "Resize" else layer.input(1)
    if not scales or scales not in at.file.constants:
        return at.because(own, "the file computes its scales")
    mode, coordinates = layer.attributes.get("mode", b"nearest"), layer.attributes.get("coordinate_transformation_mode")
    if own.attributes.get("mode", b"nearest") != mode or at.file.constants[scales].tolist() != list(
        own.attributes["scales"]
    ):
        return False
    if mode == b"nearest":
        plain = layer.type == "Upsample" or (coordinates, layer.attributes.get("nearest_mode")) == (
            b"asymmetric",
            b"floor",
        )
        if not plain:
            return at.because(own, "it takes other neighbours than the file")
    elif own.attributes.get("coordinate_transformation_mode") != (coordinates or b"asymmetric"):
        return at.because(own, "it takes other coordinates than the file")
    return (yield Pair(own.inputs[0], layer.inputs[0], BLOCKED))


@rewriting("Split")
def slices(at: Matching, own: GraphOperator, index: int, pair: Pair) -> Steps:
    """Slices, and Gathers of one place, cut at once by a Split."""
    theirs = at.file.producer(pair.file)
    sizes = _parts(at.executed, own)
    if theirs is None or sizes is None or theirs.type not in ("Slice", "Gather"):
        return False
    start, stop = sum(sizes[:index]), sum(sizes[: index + 1])
    axis, rank = own.attributes.get("axis", 0), at.file.rank(theirs.inputs[0])
    if theirs.type == "Gather":
        where = at.file.constants.get(theirs.inputs[1])
        if where is None or where.size != 1 or stop - start != 1 or not (pair.view.flat or where.ndim == 1):
            return False
        same_axis = _same_axis(axis, theirs.attributes.get("axis", 0), rank)
        at_start = int(where.reshape(-1)[0]) in (start, start - sum(sizes))
        return same_axis and at_start and (yield Pair(own.inputs[0], theirs.inputs[0]))
    if not (pair.view.plain or pair.view.flat):
        return False
    cut = _slice(at.file, theirs, sum(sizes))
    if cut is None or cut[1:] != (start, stop) or not _same_axis(axis, cut[0], rank):
        return False
    return (yield Pair(own.inputs[0], theirs.inputs[0]))


def _same_axis(one: int, other: int, rank: int | None) -> bool:
    return one == other or (rank is not None and one % rank == other % rank)


def _parts(graph: Graph, own: GraphOperator) -> list[int] | None:
    if own.input(1):
        return [int(i) for i in graph.constants[own.input(1)]] if own.input(1) in graph.constants else None
    given = own.attributes.get("split")
    return [int(i) for i in given] if given else None


def _slice(graph: Graph, own: GraphOperator, length: int) -> tuple[int, int, int] | None:
    """``(axis, start, stop)`` of a Slice along one axis with step 1, of an axis of that length."""
    parts = {}
    for position, name in enumerate(("starts", "ends", "axes", "steps"), start=1):
        value = own.input(position)
        if value and value not in graph.constants:
            return None
        given = graph.constants[value].reshape(-1).tolist() if value else list(own.attributes.get(name, ()))
        parts[name] = [int(i) for i in given]
    if len(parts["starts"]) != 1 or parts["steps"] not in ([], [1]):
        return None
    start, stop, _ = slice(parts["starts"][0], parts["ends"][0]).indices(length)
    return (parts["axes"] or [0])[0], start, stop
