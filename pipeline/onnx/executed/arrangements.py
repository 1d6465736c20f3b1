"""Rewritings that only move values: copies, transposes, reshapes, blocks of channels; and the operator that is unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import gcd

from pipeline.onnx.executed.graphs import NCHWC, Graph, GraphOperator
from pipeline.onnx.executed.matching import (
    RESHAPES,
    Matching,
    Pair,
    Steps,
    copy_source,
    rewriting,
    same_numbers,
    same_shape,
)
from pipeline.onnx.executed.views import AS_IT_IS, BLOCKED, FLAT, View

BLOCK = 16
"""The largest number of channels in a block; each smaller one divides it."""
COMMUTE = ("Add", "Mul", "Sum", "Max", "Min")
ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Pow", "PRelu", "Where"),
    *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "Exp", "Log", "Erf", "Sqrt", "Abs", "Neg"),
    *(
        "Softplus",
        "Softsign",
        "HardSigmoid",
        "HardSwish",
        "Gelu",
        "Clip",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Sin",
        "Cos",
    ),
    *("Reciprocal", "ThresholdedRelu", "Mish", "Not", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
}
"""Each entry of the output depends on the operands' entries at the same index."""
SETTINGS = {"Clip": (1, 2)}
"""Positions of inputs of elementwise operators that are settings, not operands."""


@rewriting()
def same_operator(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """The file's operator, unchanged: the same attributes and operands; Sum of two is Add, and operands may commute."""
    file_op = matching.file.producer(pair.file)
    if file_op is None or matching.file.producers[pair.file][1] != index:
        return False
    names = {_name(op), _name(file_op)}
    if len(names) > 1 or op.type.startswith(NCHWC) or op.attributes != file_op.attributes:
        return False
    inputs, file_inputs = _inputs(op), _inputs(file_op)
    if len(inputs) != len(file_inputs):
        return False
    orders = permutations(file_inputs) if _name(op) in COMMUTE and len(file_inputs) == 2 else [tuple(file_inputs)]
    for order in orders:
        pairs = _operands(matching, op, pair.view, inputs, order)
        if pairs is None:
            continue
        for operand in pairs:
            if not (yield operand):
                break
        else:
            return True
    return False


@rewriting("Concat")
def turned_concat(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """Arrays joined along another axis, because each of them is permuted as the result is."""
    file_op = matching.file.producer(pair.file)
    if file_op is None or file_op.type != "Concat" or pair.view.perm is None or len(op.inputs) != len(file_op.inputs):
        return False
    rank = len(pair.view.perm)
    if pair.view.perm[op.attributes["axis"] % rank] != file_op.attributes["axis"] % rank:
        return False
    for value, file_value in zip(op.inputs, file_op.inputs, strict=True):
        if not (yield Pair(value, file_value, pair.view)):
            return False
    return True


@rewriting("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def permuted_reduction(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A reduction that keeps its axes, over those of an array that is permuted as its result is."""
    file_op = matching.file.producer(pair.file)
    if pair.view.perm is None or file_op is None or file_op.type != op.type:
        return False
    if any(o.attributes.get("keepdims", 1) != 1 or o.attributes.get("noop_with_empty_axes", 0) for o in (op, file_op)):
        return False
    rank, sides = len(pair.view.perm), ((matching.executed, op), (matching.file, file_op))
    axes, file_axes = (
        graph.constants.get(o.input(1)) if o.input(1) else o.attributes.get("axes") for graph, o in sides
    )
    if axes is None or file_axes is None or not len(axes) or matching.file.rank(file_op.inputs[0]) != rank:
        return False
    if {pair.view.perm[int(a) % rank] for a in axes} != {int(a) % rank for a in file_axes}:
        return False
    return (yield Pair(op.inputs[0], file_op.inputs[0], pair.view))


@rewriting("Gather")
def shape_of_what_is_permuted(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """The sizes of an array, in another order, where the file has those of the permuted array."""
    shape, file_shape = matching.executed.producer(op.inputs[0]), matching.file.producer(pair.file)
    order = matching.executed.constants.get(op.inputs[1])
    if shape is None or file_shape is None or order is None or not shape.type == file_shape.type == "Shape":
        return False
    if any(o.attributes.get("start", 0) or "end" in o.attributes for o in (shape, file_shape)) or not pair.view.plain:
        return False
    if order.ndim != 1 or sorted(order.tolist()) != list(range(order.size)):
        return False
    view = View.of([int(i) for i in order.argsort()])
    return matching.file.rank(file_shape.inputs[0]) == order.size and (
        yield Pair(shape.inputs[0], file_shape.inputs[0], view)
    )


def _name(op: GraphOperator) -> str:
    return "Add" if op.type == "Sum" and len(op.inputs) == 2 else op.type


def _inputs(op: GraphOperator) -> list[str]:
    """Inputs without trailing ones that are left out."""
    inputs = list(op.inputs)
    while inputs and not inputs[-1]:
        inputs.pop()
    return inputs


def _operands(
    matching: Matching, op: GraphOperator, view: View, inputs: list[str], file_inputs: tuple[str, ...]
) -> list[Pair] | None:
    """The pairs of operands that must match so that the outputs do under ``view``; None where the operator does not commute."""
    if any(bool(a) != bool(b) for a, b in zip(inputs, file_inputs, strict=True)):
        return None
    input_pairs = [(a, b) for a, b in zip(inputs, file_inputs, strict=True) if a]
    if view.plain:
        return [Pair(a, b) for a, b in input_pairs]
    if op.type == "Concat" and view.blocked:
        block = gcd(BLOCK, *_padded_channels(matching.executed))
        whole_blocks = all((matching.file.size(b, 1) or 1) % block == 0 for _, b in input_pairs)
        return [Pair(a, b, view) for a, b in input_pairs] if op.attributes["axis"] == 1 and whole_blocks else None
    if op.type == "Concat" and view.perm is not None:
        return None
    if op.type not in ELEMENTWISE:
        return None
    pairs, varying = [], []
    for position, (a, b) in enumerate(input_pairs):
        if position in SETTINGS.get(op.type, ()):
            pairs.append(Pair(a, b))
        elif matching.executed.constants.fixed(a):
            if not _constant_fits(matching, a, b, view):
                return None
        else:
            varying.append(b)
            pairs.append(Pair(a, b, view))
    # Arrays that are equal only in row-major order might be broadcast against each other.
    same_shapes = all(not view.flat and same_shape(matching.file, varying[0], other) for other in varying[1:])
    ranks = view.perm is None or all(matching.file.rank(v) == len(view.perm) for v in varying)
    return pairs if same_shapes and ranks and varying else None


def _padded_channels(executed: Graph) -> Iterator[int]:
    """How many channels the results of blocked convolutions have: whole blocks, and so a multiple of the block's size."""
    for op in executed.operators:
        if op.type == NCHWC + "Conv" and op.inputs[1] in executed.constants:
            yield executed.constants[op.inputs[1]].shape[0]


def _constant_fits(matching: Matching, executed: str, file: str, view: View) -> bool:
    """Whether a constant operand is the file's under ``view``: a single number, or an array permuted like the other operand."""
    if file not in matching.file.constants:
        return False
    array, file_array = matching.executed.constants[executed], matching.file.constants[file]
    if array.size == file_array.size == 1:
        return same_numbers(array.reshape(()), file_array.reshape(()))
    if view.perm is None or file_array.ndim > len(view.perm):
        return False
    rank = len(view.perm)
    expected = file_array.reshape((1,) * (rank - file_array.ndim) + file_array.shape).transpose(view.perm)
    return (
        same_numbers(array.reshape((1,) * (rank - array.ndim) + array.shape), expected) if array.ndim <= rank else False
    )


@rewriting()
def copies(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """An executed operator that only copies."""
    inner = copy_source(matching.executed, pair.executed)
    return inner is not None and (yield Pair(inner, pair.file, pair.view))


@rewriting("Transpose")
def transposes(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A transpose, which the file may have elsewhere: it changes the view."""
    perm = op.attributes.get("perm")
    view = None if perm is None else pair.view.before_executed(perm)
    return view is not None and (yield Pair(op.inputs[0], pair.file, view))


@rewriting(*RESHAPES)
def reshapes(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A reshape, which keeps the row-major order; under the plain view its shape must be that of the file's value."""
    if pair.view.plain and not _reaches(matching, op, pair.file):
        return False
    if not (pair.view.plain or pair.view.flat):
        return False
    return (yield Pair(op.inputs[0], pair.file, FLAT))


def _reaches(matching: Matching, op: GraphOperator, file: str) -> bool:
    """Whether an executed reshape has the shape of the file's value: all sizes but one, which then follows."""
    value_type = matching.file.types.get(file)
    if value_type is None or not value_type.HasField("shape"):
        return False
    sizes = [d.dim_value for d in value_type.shape.dim]
    if op.type != "Reshape" or op.inputs[1] not in matching.executed.constants:
        return False
    target = [int(d) for d in matching.executed.constants[op.inputs[1]].reshape(-1)]
    if len(target) != len(sizes):
        return False
    open_ = [t for t, s in zip(target, sizes, strict=True) if not (t > 0 and s > 0 and t == s)]
    return len(open_) <= 1 and all(t <= 0 or s == 0 for t, s in zip(target, sizes, strict=True) if t != s)


@rewriting(NCHWC + "ReorderInput")
def into_blocks(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """Channels put into blocks, from an array with channels second or last."""
    view = View.of((0, 2, 3, 1)) if op.attributes.get("channels_last", 0) else AS_IT_IS
    return pair.view.blocked and (yield Pair(op.inputs[0], pair.file, view))


@rewriting(NCHWC + "ReorderOutput")
def out_of_blocks(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """Channels taken out of their blocks."""
    view = View.of((0, 2, 3, 1)) if op.attributes.get("channels_last", 0) else AS_IT_IS
    return pair.view == view and (yield Pair(op.inputs[0], pair.file, BLOCKED))
