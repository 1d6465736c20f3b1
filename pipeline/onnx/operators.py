"""The table of operators: which attributes, inputs and outputs of each are accounted for.

An operator is entered once, beside its lowering, by ``@operator`` (``lowering/lower.py``). A node of a file is accepted only if
all of it is accounted for: each attribute is read, has no effect on the function, or is at ONNX's default; each input is read;
each output that is read is computed. Otherwise the file is refused by the operator's name. Once a node has been lowered,
``unread`` checks that the attributes that the table calls read were read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from onnx import defs, helper

from pipeline.onnx.ir import Node
from pipeline.onnx.names import shown

OPSETS = range(7, 24)
"""Of a file; the forms that its nodes may have are those of these opsets."""


class Unsupported(Exception):
    """An operator, or one use of it, that the import does not support; the message is the reason, which may be empty."""


@dataclass(frozen=True)
class Operator:
    """All that the import knows of one operator of ONNX, except its lowering."""

    name: str
    opsets: range = OPSETS
    """The opsets of files whose form of the operator is supported."""
    reads: frozenset[str] = frozenset()
    """Attributes that the lowering honours at any value, or refuses by their value."""
    inert: Mapping[str, str] = field(default_factory=dict)
    """Attributes without effect on the function that is computed, each with the reason."""
    inputs: int | None = 1
    """How many inputs are read, None for any number."""
    outputs: int | None = 1
    """How many outputs are made, None for any number."""
    weights: Mapping[int, str] = field(default_factory=dict)
    """By position of an input: the parameter of the module that holds it."""
    trains: bool = False
    """Whether retraining changes its weights."""
    pointwise: bool = False
    """Whether each entry of the result is a function of the operands' entries at the same index, after broadcasting."""
    refuses: Callable[[Node, int], str | None] = lambda node, opset: None
    """``refuses(node, opset)``: why a node is refused although all of it is read; None where it is not."""


TABLE: dict[str, Operator] = {}
REASONS: dict[str, str] = {
    "TopK": "which entries it gives depends on their order; take the output before it, as a classifier needs no TopK",
    "NonZero": "the shape of its output depends on values",
    "NonMaxSuppression": "which boxes it keeps depends on their order; certify the outputs before it",
    "Unique": "the shape of its output depends on values",
    "Hardmax": "it is a step: take its input, whose largest entry is the label",
    **dict.fromkeys(("RNN", "GRU", "LSTM"), "its steps in time have no bounds here"),
    **dict.fromkeys(("ScatterElements", "GatherElements"), "it may move entries from sample to sample"),
    "Attention": "export at opset 20 or below, where it is written as products and a Softmax",
}
"""Why an operator that is not in the table is refused, where more can be said than that it is."""


def enter(entry: Operator) -> None:
    """Add an operator to the table. Raises KeyError where it is there already."""
    if entry.name in TABLE:
        raise KeyError(f"an operator has one entry; {entry.name} has one already")
    TABLE[entry.name] = entry


def default(operator: str, attribute: str, opset: int = OPSETS.stop - 1, domain: str = "") -> Any:
    """ONNX's default of an attribute, None where it has none."""
    return _defaults(operator, opset, domain).get(attribute)


@cache
def _defaults(operator: str, opset: int, domain: str) -> Mapping[str, Any]:
    if not defs.has(operator, opset, domain):
        return {}
    schema = defs.get_schema(operator, opset, domain)
    return {
        name: helper.get_attribute_value(a.default_value)
        for name, a in schema.attributes.items()
        if a.default_value.type
    }


def refusal(node: Node, opset: int, read: set[str]) -> str | None:
    """Why a node of a file is refused, as words that follow its operator's name; None where it is accepted.

    ``read``: the values that other nodes or outputs of the graph read. None also for an operator that is not in the table.
    """
    entry = TABLE.get(node.op_type)
    if entry is None:
        return None
    if opset not in entry.opsets:
        first, last = entry.opsets.start, entry.opsets.stop - 1
        return f"its form at opset {opset} is not supported, those from {first} to {last} are"
    for name in node.attributes:
        value, default_value = (
            node.attributes.peek(name),
            default(node.op_type, name, _version(node, opset), node.domain),
        )
        if name not in entry.reads and name not in entry.inert and not _equal(value, default_value):
            hint = "" if default_value is None else f", only {_text(default_value)} is, ONNX's default"
            return f"its attribute {name} = {_text(value)} is not supported{hint}"
    for position, value in enumerate(node.inputs):
        if value and entry.inputs is not None and position >= entry.inputs:
            return f"its input {_formal_name(node, opset, 'inputs', position)} is not supported"
    for position, value in enumerate(node.outputs):
        if value in read and entry.outputs is not None and position >= entry.outputs:
            return f"its output {_formal_name(node, opset, 'outputs', position)} is read"
    return entry.refuses(node, opset)


def _version(node: Node, opset: int) -> int:
    """The file's opset for operators of ONNX's own domain, the newest one for those of other domains."""
    return opset if not node.domain else OPSETS.stop - 1


def unread(node: Node, opset: int) -> str | None:
    """An attribute that the table calls read, that is not at its default and that nobody read, as a reason; None for none."""
    entry = TABLE.get(node.op_type)
    for name in sorted(entry.reads - node.attributes.read) if entry is not None else ():
        if name in node.attributes and not _equal(
            node.attributes.peek(name), default(node.op_type, name, _version(node, opset), node.domain)
        ):
            return f"its attribute {name} = {_text(node.attributes.peek(name))} is not honoured"
    return None


def snapshot(node: Node) -> Node:
    """A copy of a node before passes change it; both record in one set which attributes were read."""
    return replace(node, inputs=list(node.inputs), outputs=list(node.outputs), attributes=node.attributes | {})


def _formal_name(node: Node, opset: int, kind: str, position: int) -> str:
    parameters = list(getattr(defs.get_schema(node.op_type, _version(node, opset), node.domain), kind))
    return str(parameters[min(position, len(parameters) - 1)].name) if parameters else str(position)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        return a is not None and b is not None and list(a) == list(b)
    return type(a) is type(b) and bool(np.all(a == b))


def _text(value: Any) -> str:
    return shown(value.decode(errors="replace") if isinstance(value, bytes) else str(value), 60)
