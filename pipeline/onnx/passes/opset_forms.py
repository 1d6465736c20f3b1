"""The forms that operators had at older opsets, brought to the newest: what was an attribute becomes an input, and so on.

Every node of a file that is computed on data comes through here first, in the file's own form at the file's own opset: it is
taken only where the table accounts for all it holds. onnx.version_converter is not used: it loses axes of reductions, for one.
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
from pipeline.onnx.operators import Unsupported, kept, refusal

Change = Callable[[Draft, Node], "list[Node] | None"]
"""The nodes that say the same at the newest opset; None where the node was changed in place."""


@dataclass(frozen=True)
class _Form:
    last: int
    """The last opset that has the form."""
    change: Change


_FORMS: dict[str, list[_Form]] = {}


def form(*names: str, last: int) -> Callable[[Change], Change]:
    """Enters how the form that operators have up to an opset is brought to the next newer form."""

    def register(change: Change) -> Change:
        for name in names:
            _FORMS.setdefault(name, []).append(_Form(last, change))
            _FORMS[name].sort(key=lambda f: f.last)
        return change

    return register


def newest(draft: Draft) -> tuple[Node, ...]:
    """Brings every node to its newest form, and returns the nodes as the file has them.

    Raises InputRejected naming every operator that the table does not take as it stands in the file; one that is not in the
    table may still turn out to be a part of a form that is known, and is left to the lowering.
    """
    needed = draft.needed()
    draft.nodes = [node for node in draft.nodes if not needed.isdisjoint(node.outputs)]
    read = {*draft.outputs, *(v for node in draft.nodes for v in node.inputs if v)}
    own, made = tuple(kept(node) for node in draft.nodes), list[Node]()
    refused: Counter[tuple[str, str]] = Counter()
    for node in draft.nodes:
        empty = any(0 in draft.shapes.get(value, ()) for value in node.outputs)
        reason = refusal(node, draft.opset, read) or ("it makes an empty value" if empty else None)
        try:
            made += _newest(draft, node) if reason is None else []
        except Unsupported as error:
            reason = str(error)
        if reason is not None:
            refused[node.op_type, reason] += 1
    if refused:
        raise rejected(refused, draft.opset)
    draft.nodes = made
    return own


def _newest(draft: Draft, node: Node) -> list[Node]:
    for older in _FORMS.get(node.op_type, ()):
        if draft.opset <= older.last:
            changed = older.change(draft, node)
            if changed is not None:
                return changed
    return [node]


def rejected(refused: Counter[tuple[str, str]], opset: int) -> InputRejected:
    """The refusal that names operators with reasons and counts."""
    said = ", ".join(
        f"{shown(op_type)} ({count}{': ' + reason if reason else ''})"
        for (op_type, reason), count in sorted(refused.items())
    )
    # An operator that is younger than opset 20 is written as its parts by an export at opset 20.
    younger = opset > 20 and all(not reason and _since(op_type) > 20 for op_type, reason in refused)
    advice = (
        "Export the model at opset 20 or lower." if younger else "Export the model without them, or ask for support."
    )
    return InputRejected(f"Every operator of a model must be supported; these are not: {said}. {advice}")


def _since(operator: str) -> int:
    """The opset at which ONNX first defined an operator."""
    return min((s.since_version for s in _schemas() if s.name == operator and not s.domain), default=0)


def _schemas() -> list[Any]:
    from onnx import defs

    return list(defs.get_all_schemas_with_history())


def attributes_to_inputs(draft: Draft, node: Node, *attributes: str, dtype: Any = np.int64) -> None:
    """Attributes become inputs behind the first, one that is absent an input left out."""
    values = [node.attributes.pop(name) for name in attributes]
    made = ["" if v is None else draft.constant(np.asarray(v, dtype)) for v in values]
    while made and not made[-1]:
        made.pop()
    node.inputs = [node.inputs[0], *made]


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
    """Equal parts, the last one smaller, where no sizes are given: said now, for an output that nobody reads is dropped later."""
    if node.attributes.pop("num_outputs", len(node.outputs)) != len(node.outputs):
        raise Unsupported("its num_outputs is not how many outputs it has")
    if node.input(1):
        return
    shape, axis = draft.shapes[node.inputs[0]], node.attributes.peek("axis", 0)
    if axis in (0, -len(shape)) and draft.free:
        raise Unsupported("it divides the batch")
    whole = shape[axis]
    part = -(-whole // len(node.outputs))
    sizes = [min(part, whole - i * part) for i in range(len(node.outputs))]
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
