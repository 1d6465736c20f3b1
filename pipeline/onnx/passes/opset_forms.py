"""Nodes in the forms of older opsets, rewritten to the newest: attributes that became inputs, and so on.

Every node of a file that is computed on data is checked here first, in the file's own form at the file's own opset: it is
refused unless the table of operators accounts for all it holds. onnx.version_converter is not used: it loses, for example,
axes of reductions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import InputRejected
from pipeline.onnx.ir import Attributes, Draft, Node
from pipeline.onnx.names import shown
from pipeline.onnx.operators import Unsupported, refusal, snapshot

Change = Callable[[Draft, Node], "list[Node] | None"]
"""Returns the nodes that replace a node at the newest opset; None where it was changed in place."""


@dataclass(frozen=True)
class _Form:
    last: int
    """The last opset that has the form."""
    change: Change


_FORMS: dict[str, list[_Form]] = {}


def form(*names: str, last: int) -> Callable[[Change], Change]:
    """Register a change of the form that operators have up to opset ``last`` to the next newer form."""

    def register(change: Change) -> Change:
        for name in names:
            _FORMS.setdefault(name, []).append(_Form(last, change))
            _FORMS[name].sort(key=lambda f: f.last)
        return change

    return register


def newest(draft: Draft) -> tuple[Node, ...]:
    """Rewrite every node to its newest form, and return copies of the nodes as the file has them.

    Raises InputRejected naming every operator whose form in the file the table refuses; an operator that is not in the table is
    left to the lowering.
    """
    needed_values = draft.needed()
    draft.nodes = [node for node in draft.nodes if not needed_values.isdisjoint(node.outputs)]
    read = {*draft.outputs, *(v for node in draft.nodes for v in node.inputs if v)}
    file_nodes, nodes = tuple(snapshot(node) for node in draft.nodes), list[Node]()
    refusals: Counter[tuple[str, str]] = Counter()
    for node in draft.nodes:
        empty = any(0 in draft.shapes.get(value, ()) for value in node.outputs)
        reason = refusal(node, draft.opset, read) or ("it makes an empty value" if empty else None)
        try:
            nodes += _newest(draft, node) if reason is None else []
        except Unsupported as error:
            reason = str(error)
        if reason is not None:
            refusals[node.op_type, reason] += 1
    if refusals:
        raise rejection(refusals, draft.opset)
    draft.nodes = nodes
    return file_nodes


def _newest(draft: Draft, node: Node) -> list[Node]:
    for old_form in _FORMS.get(node.op_type, ()):
        if draft.opset <= old_form.last:
            nodes = old_form.change(draft, node)
            if nodes is not None:
                return nodes
    return [node]


def rejection(reasons: Counter[tuple[str, str]], opset: int) -> InputRejected:
    """The error that names operators with reasons and counts; ``reasons``: counts by operator and reason."""
    listing = ", ".join(
        f"{shown(op_type)} ({count}{': ' + reason if reason else ''})"
        for (op_type, reason), count in sorted(reasons.items())
    )
    # An export at opset 20 decomposes operators that were defined later.
    is_newer = opset > 20 and all(not reason and _since(op_type) > 20 for op_type, reason in reasons)
    advice = (
        "Export the model at opset 20 or lower." if is_newer else "Export the model without them, or ask for support."
    )
    return InputRejected(f"Every operator of a model must be supported; these are not: {listing}. {advice}")


def _since(operator: str) -> int:
    """The opset at which ONNX first defined an operator."""
    return min((s.since_version for s in _schemas() if s.name == operator and not s.domain), default=0)


def _schemas() -> list[Any]:
    from onnx import defs

    return list(defs.get_all_schemas_with_history())


def attributes_to_inputs(draft: Draft, node: Node, *attributes: str, dtype: Any = np.int64) -> None:
    """Move attributes to inputs behind the first; an absent one becomes an input that is left out."""
    values = [node.attributes.pop(name) for name in attributes]
    inputs = ["" if v is None else draft.constant(np.asarray(v, dtype)) for v in values]
    while inputs and not inputs[-1]:
        inputs.pop()
    node.inputs = [node.inputs[0], *inputs]


@form("ReduceSum", "Squeeze", "Unsqueeze", last=12)
@form("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", last=17)
@form("ReduceL1", "ReduceL2", "ReduceSumSquare", last=17)
def _axes(draft: Draft, node: Node) -> None:
    attributes_to_inputs(draft, node, "axes")


@form("Slice", last=9)
def _slice(draft: Draft, node: Node) -> None:
    attributes_to_inputs(draft, node, "starts", "ends", "axes")


@form("Pad", last=10)
def _pad(draft: Draft, node: Node) -> None:
    filler = node.attributes.get("value", 0.0)
    attributes_to_inputs(draft, node, "pads")
    node.inputs.append(draft.constant(np.asarray(filler, draft.dtypes[node.output])))


@form("Clip", last=10)
def _clip(draft: Draft, node: Node) -> None:
    attributes_to_inputs(draft, node, "min", "max", dtype=draft.dtypes[node.output])


@form("Split", last=12)
def _split_sizes(draft: Draft, node: Node) -> None:
    attributes_to_inputs(draft, node, "split")


@form("Split", last=23)
def _split(draft: Draft, node: Node) -> None:
    """Sizes that are left out as a constant: equal parts, the last one smaller. Later passes drop outputs that nobody reads."""
    if node.attributes.pop("num_outputs", len(node.outputs)) != len(node.outputs):
        raise Unsupported("its num_outputs is not how many outputs it has")
    if node.input(1):
        return
    shape, axis = draft.shapes[node.inputs[0]], node.attributes.peek("axis", 0)
    if axis in (0, -len(shape)) and draft.free:
        raise Unsupported("it divides the batch")
    length = shape[axis]
    size = -(-length // len(node.outputs))
    sizes = [min(size, length - i * size) for i in range(len(node.outputs))]
    node.inputs = [node.inputs[0], draft.constant(np.array(sizes, np.int64))]


@form("LogSoftmax", "Softmax", last=12)
def _softmax(draft: Draft, node: Node) -> list[Node] | None:
    """Before opset 13 it flattened its input to two axes, at ``axis``, and normalised along the second (Softmax-11)."""
    x, shape = node.inputs[0], draft.shapes[node.inputs[0]]
    axis = node.attributes.pop("axis", 1)
    axis += len(shape) if axis < 0 else 0
    node.attributes["axis"] = -1
    if axis == len(shape) - 1:
        return None
    if not 0 < axis < len(shape):
        raise Unsupported(f"its axis {axis} of {len(shape)} takes all samples together")
    flat, soft = draft.fresh(), draft.fresh()
    for name in (flat, soft):
        draft.shapes[name] = (math.prod(shape[:axis]), math.prod(shape[axis:]))
        draft.dtypes[name] = draft.dtypes[x]
        draft.origins[name] = draft.origins[node.output]
    return [
        Node("Flatten", [x], [flat], Attributes({"axis": axis})),
        Node(node.op_type, [flat], [soft], node.attributes),
        Node("Reshape", [soft, draft.constant(np.array([-1, *shape[1:]], np.int64))], list(node.outputs)),
    ]
