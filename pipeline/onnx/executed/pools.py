"""Pooling and resizing in other layouts, padding joined to pooling, and slices that one Split computes."""

from __future__ import annotations

import numpy as np

from pipeline.onnx.executed.activations import clip_ends
from pipeline.onnx.executed.graphs import NCHWC, Graph, GraphOperator
from pipeline.onnx.executed.layers import pads_by_sum, same_padding, zero_pads
from pipeline.onnx.executed.matching import RESHAPES, Matching, Pair, Steps, copy_source, rewriting, skip_copies
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED

POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
SIZES = ("kernel_shape", "strides", "dilations", "ceil_mode", "storage_order")
NONNEGATIVE = ("Relu", "Abs", "HardSigmoid")
KEEP_SIGNS = (*POOLS, *RESHAPES, "Transpose", "Concat", "Add", "Mul", "Sum", "Max", "Pad")


@rewriting(*POOLS, *(NCHWC + name for name in POOLS))
def pooling(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """The file's pooling, in any layout; its padding may include the zeros of a Pad before it where that gives the same result.

    MaxPool pads with minus infinity, so its input must be nonnegative and no window may lie in padding alone; AveragePool must
    count its padding.
    """
    blocked = op.type.startswith(NCHWC)
    if pair.view != (BLOCKED if blocked else AS_IT_IS) or index:
        return False
    file, layer = skip_copies(matching.file, pair.file)
    if layer is None or layer.type != op.plain_type or layer.outputs[0] != file:
        return False
    if any(_setting(op, name) != _setting(layer, name) for name in SIZES):
        return False
    counts_padding = [o.attributes.get("count_include_pad", 0) for o in (op, layer)]
    if same_padding(op, layer):
        if counts_padding[0] != counts_padding[1] and not _pads_nothing(op):
            return matching.refuse(op, "it counts padding where the file does not")
        return (yield Pair(op.inputs[0], layer.inputs[0], pair.view))
    _, pad = skip_copies(matching.file, layer.inputs[0])
    before = zero_pads(matching, pad) if pad is not None and pad.type == "Pad" else None
    if pad is None or before is None or not pads_by_sum(op, layer, before):
        return matching.refuse(op, "its padding is not that of the file")
    if not any(before) and (_pads_nothing(op) or counts_padding[0] == counts_padding[1]):
        return (yield Pair(op.inputs[0], pad.inputs[0], pair.view))
    if op.attributes.get("ceil_mode", 0):
        return matching.refuse(op, "padding is joined to a pooling that rounds its size up")
    if op.plain_type == "AveragePool" and not (
        counts_padding[0] and (counts_padding[1] or not any(layer.attributes.get("pads", ())))
    ):
        return matching.refuse(op, "zeros that the file averages are left out of the average")
    if op.plain_type == "MaxPool":
        kernel = op.attributes["kernel_shape"]
        if any(2 * p > k for p, k in zip(op.attributes["pads"], (*kernel, *kernel), strict=True)):
            return matching.refuse(op, "its windows may lie in padding alone")
        if not nonnegative(matching.file, pad.inputs[0]):
            return matching.refuse(op, "it pads with minus infinity where the file pads with zero")
    return (yield Pair(op.inputs[0], pad.inputs[0], pair.view))


def _pads_nothing(op: GraphOperator) -> bool:
    """Whether no window reaches beyond the input."""
    explicit = op.attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return explicit and not any(op.attributes.get("pads", ())) and not op.attributes.get("ceil_mode", 0)


def _setting(op: GraphOperator, name: str) -> object:
    value = op.attributes.get(name)
    neutral = (1,) if name in ("strides", "dilations") else (0,)
    return None if value is None or set(np.atleast_1d(np.asarray(value)).tolist()) <= set(neutral) else value


def nonnegative(graph: Graph, value: str) -> bool:
    """Whether the operators before a value show that no entry of it is negative."""
    pending, visited = [value], set[str]()
    while pending:
        value = pending.pop()
        if value in visited:
            continue
        visited.add(value)
        if value in graph.constants:
            array = graph.constants[value]
            if array.dtype.kind == "f" and not (array >= 0).all():
                return False
            continue
        op = graph.producer(value)
        if op is None:
            return False
        if op.type in NONNEGATIVE:
            continue
        inner = copy_source(graph, value)
        if inner is not None:
            pending.append(inner)
        elif op.type == "Clip":
            if not _is_nonnegative_clip(graph, op):
                return False
        elif op.type in KEEP_SIGNS:
            pending.extend(op.inputs if op.type in ("Concat", "Add", "Mul", "Sum", "Max") else op.inputs[:1])
            if op.type == "Pad" and op.input(2):
                pending.append(op.input(2))
            if op.type == "Pad" and op.attributes.get("value", 0.0) < 0:  # up to opset 10
                return False
        else:
            return False
    return True


def _is_nonnegative_clip(graph: Graph, op: GraphOperator) -> bool:
    """Whether both ends are at least zero: where ends cross, the upper one is the result."""
    ends = clip_ends(graph, op)
    return ends is not None and min(ends) >= 0


@rewriting(NCHWC + "Upsample")
def upsampling(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """Resize by whole factors: nearest as it is, linear with the same coordinates."""
    _, layer = skip_copies(matching.file, pair.file)
    if not pair.view.blocked or layer is None or layer.type not in ("Resize", "Upsample"):
        return False
    scales = layer.input(2) if layer.type == "Resize" else layer.input(1)
    if not scales or scales not in matching.file.constants:
        return matching.refuse(op, "the file computes its scales")
    mode, coordinates = layer.attributes.get("mode", b"nearest"), layer.attributes.get("coordinate_transformation_mode")
    if op.attributes.get("mode", b"nearest") != mode or matching.file.constants[scales].tolist() != list(
        op.attributes["scales"]
    ):
        return False
    if mode == b"nearest":
        plain = layer.type == "Upsample" or (coordinates, layer.attributes.get("nearest_mode")) == (
            b"asymmetric",
            b"floor",
        )
        if not plain:
            return matching.refuse(op, "it takes other neighbours than the file")
    elif op.attributes.get("coordinate_transformation_mode") != (coordinates or b"asymmetric"):
        return matching.refuse(op, "it takes other coordinates than the file")
    return (yield Pair(op.inputs[0], layer.inputs[0], BLOCKED))
