"""Gives a file without a batch axis one, of size one, in front of every computed value: the layout that bounds know.

Operators over the axes of one sample have these moved by one; a value of fewer axes than what it is combined with gets ones
behind the batch. Parity with the file, whose inputs and outputs lack the axis, decides whether the result is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.errors import InputRejected
from pipeline.onnx.ir import Draft, Node
from pipeline.onnx.names import shown
from pipeline.onnx.operators import TABLE
from pipeline.onnx.passes.linear import DOMAIN

Rewrite = Callable[["_Lift", Node], Node]


class NoLiftedForm(Exception):
    """An operator, as it is used here, has no form with a batch in front."""


def add_batch(draft: Draft) -> None:
    """Rewrite every node. Raises InputRejected naming an operator that cannot be."""
    lift = _Lift(draft)
    for node in draft.nodes:
        try:
            lift.nodes.append(lift.rewritten(node))
        except NoLiftedForm:
            raise InputRejected(
                f"the first axis of an input must count samples, and {shown(node.op_type)} as it stands here cannot be given "
                "such an axis. Export the model with a batch axis."
            ) from None
    draft.nodes = lift.nodes
    for name in {*draft.inputs, *(v for node in draft.nodes for v in node.outputs if v)} - lift.reshaped:
        draft.shapes[name] = (1, *draft.shapes[name])


class _Lift:
    """The nodes rewritten so far, and what they are rewritten by."""

    def __init__(self, draft: Draft):
        self.draft, self.nodes, self.reshaped = draft, list[Node](), set[str]()

    def rewritten(self, node: Node) -> Node:
        """The node over values with a batch in front."""
        rewrite = _REWRITES.get(node.op_type)
        entry = TABLE.get(node.op_type)
        if rewrite is None and entry is not None and entry.pointwise:
            rewrite = _pointwise
        if rewrite is None:
            raise NoLiftedForm
        return rewrite(self, node)

    def rank(self, value: str) -> int:
        """The axes of a value in the file."""
        return len(self.draft.shapes[value])

    def computed(self, value: str) -> bool:
        """Whether a value is no constant, and so gets a batch."""
        return bool(value) and value not in self.draft.constants

    def integers(self, values: Sequence[int]) -> str:
        """A constant of whole numbers."""
        return self.draft.constant(np.array(values, np.int64))

    def in_front(self, value: str) -> str:
        """A constant with the axis of the batch, or a computed value as it is."""
        if self.computed(value):
            return value
        array = self.draft.constants[value]
        return self.draft.derive(value, array[None], ("reshape", array.shape), key="batch")

    def of_rank(self, value: str, rank: int) -> str:
        """A computed value with ones behind the batch, so that it broadcasts as it did."""
        if not self.computed(value) or self.rank(value) == rank:
            return value
        shape, name = (1,) * (1 + rank - self.rank(value)) + self.draft.shapes[value], self.draft.fresh()
        self.nodes.append(Node("Reshape", [value, self.integers(shape)], [name]))
        self.draft.shapes[name], self.draft.dtypes[name] = shape, self.draft.dtypes[value]
        self.reshaped.add(name)
        return name

    def shift(self, node: Node, default: int) -> Node:
        """The attribute ``axis`` over a value with a batch in front; negative axes count from the end."""
        axis = node.attributes.get("axis", default)
        return replace(node, attributes=node.attributes | {"axis": axis + 1 if axis >= 0 else axis})

    def axes_input(self, node: Node, position: int, whole: Sequence[int]) -> Node:
        """``shift`` for axes that are an input; ``whole`` where there are none."""
        name = node.input(position)
        if name and self.computed(name):
            raise NoLiftedForm
        axes = [int(a) for a in self.draft.constants[name].ravel()] if name else []
        axes = axes or list(whole)
        inputs = [*node.inputs, *[""] * (position - len(node.inputs) + 1)]
        inputs[position] = self.integers([a + 1 if a >= 0 else a for a in axes])
        return replace(node, inputs=inputs)


def _pointwise(lift: _Lift, node: Node) -> Node:
    rank = lift.rank(node.output)
    return replace(node, inputs=[lift.of_rank(value, rank) for value in node.inputs])


def _to_shape(lift: _Lift, node: Node) -> Node:
    """Reshape, Flatten, Squeeze, Unsqueeze: to the shape that was measured, unless the input decides it."""
    if any(lift.computed(v) for v in node.inputs[1:]):
        raise NoLiftedForm
    node.attributes.read |= set(node.attributes)  # whatever they say, the measured shape follows from it
    return Node("Reshape", [node.inputs[0], lift.integers((1, *lift.draft.shapes[node.output]))], [node.output])


def _expand(lift: _Lift, node: Node) -> Node:
    if lift.computed(node.inputs[1]):
        raise NoLiftedForm
    shape = lift.draft.shapes[node.output]
    return replace(node, inputs=[lift.of_rank(node.inputs[0], len(shape)), lift.integers((1, *shape))])


def _transpose(lift: _Lift, node: Node) -> Node:
    perm = node.attributes.get("perm") or list(reversed(range(lift.rank(node.inputs[0]))))
    return replace(node, attributes=node.attributes | {"perm": [0, *(p + 1 for p in perm)]})


def _concat(lift: _Lift, node: Node) -> Node:
    return lift.shift(replace(node, inputs=[lift.in_front(v) for v in node.inputs]), 0)


def _of_one(default: int) -> Rewrite:
    """An operator of one computed value along an axis."""

    def rewrite(lift: _Lift, node: Node) -> Node:
        if not lift.computed(node.inputs[0]) or any(lift.computed(v) for v in node.inputs[1:]):
            raise NoLiftedForm
        return lift.shift(node, default)

    return rewrite


def _slice(lift: _Lift, node: Node) -> Node:
    return lift.axes_input(node, 3, range(lift.draft.shapes[node.inputs[1]][0]))


def _reduce(lift: _Lift, node: Node) -> Node:
    """Over axes of the sample: all of them where none is named, unless that means that nothing is reduced."""
    whole = range(lift.rank(node.inputs[0]))
    listed = lift.draft.constants.get(node.input(1))
    if node.attributes.get("noop_with_empty_axes", 0) and not (listed is not None and listed.size):
        raise NoLiftedForm
    if "axes" in node.attributes:
        axes = node.attributes.get("axes") or list(whole)
        return replace(node, attributes=node.attributes | {"axes": [a + 1 if a >= 0 else a for a in axes]})
    return lift.axes_input(node, 1, whole)


def _matmul(lift: _Lift, node: Node) -> Node:
    """Stacks of matrices broadcast as before; a computed vector is a row of one, with a constant matrix behind it alone."""
    a, b = node.inputs
    rank = max(lift.rank(a), lift.rank(b))
    vector = min(lift.rank(v) for v in (a, b) if lift.computed(v)) < 2
    if vector and (lift.computed(b) or lift.rank(b) > 2):
        raise NoLiftedForm
    return node if vector else replace(node, inputs=[lift.of_rank(a, rank), lift.of_rank(b, rank)])


def _gemm(lift: _Lift, node: Node) -> Node:
    """A product in the form of ``linear.canonical``, of any rank."""
    if not lift.computed(node.inputs[0]) or any(lift.computed(v) for v in node.inputs[1:]):
        raise NoLiftedForm
    return replace(node, op_type="Linear", domain=DOMAIN, attributes=node.attributes | {})


def _as_it_is(lift: _Lift, node: Node) -> Node:
    return node


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _to_shape),
    **dict.fromkeys(("Identity", "Cast", "Linear"), _as_it_is),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _of_one(-1)),
    **dict.fromkeys(("Gather", "Split", "ArgMax"), _of_one(0)),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _reduce
    ),
    **{
        "Transpose": _transpose,
        "Concat": _concat,
        "Expand": _expand,
        "Slice": _slice,
        "MatMul": _matmul,
        "Gemm": _gemm,
    },
}
