"""The one table of operators: what the import makes of each, and what it reads of a node before it believes it.

An operator is entered once, beside its lowering, by ``@operator``. A node of a file is taken only where all it holds is accounted
for: an attribute is read, or says nothing about the function, or stands at ONNX's default; an input is read; an output that
somebody reads is made. Anything else refuses the file by the operator's name. That what is said to be read was read is
checked when the node has been lowered (``unread``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import defs, helper

from pipeline.onnx.ir import Node
from pipeline.onnx.names import shown

if TYPE_CHECKING:
    from torch import fx

    from pipeline.onnx.lowering.lower import Item

OPSETS = range(7, 24)
"""Of a file; the forms that its nodes may have are those of these opsets."""

Lowering = Callable[["Item"], "fx.Node | list[fx.Node]"]


class Unsupported(Exception):
    """An operator, or this use of it, that the vocabulary cannot say; all of a file are collected and named."""


@dataclass(frozen=True)
class Operator:
    """All that the import knows of one operator of ONNX."""

    name: str
    lowering: Lowering | None = None
    """None where a pass over the graph leaves no such node behind."""
    opsets: range = OPSETS
    """The opsets of files whose form of it is known."""
    reads: frozenset[str] = frozenset()
    """Attributes that are honoured, whatever they say, or refused by their value in the lowering."""
    inert: Mapping[str, str] = field(default_factory=dict)
    """Attributes that say nothing about the function that is computed, each with the reason."""
    inputs: int | None = 1
    """How many inputs are read, None for any number."""
    outputs: int | None = 1
    """How many outputs are made, None for any number."""
    weights: Mapping[int, str] = field(default_factory=dict)
    """By input: the parameter of its module that holds it."""
    trains: bool = False
    """Whether retraining changes its weights."""
    pointwise: bool = False
    """Whether each entry of the result is a function of the entries at the same place, operands broadcast."""
    refuses: Callable[[Node, int], str | None] = lambda node, opset: None
    """Why a form of it, at an opset, is refused although all it holds is read."""


TABLE: dict[str, Operator] = {}


def operator(
    *names: str,
    reads: Sequence[str] = (),
    inert: Mapping[str, str] | None = None,
    **more: Any,
) -> Callable[[Lowering], Lowering]:
    """Enters operators that share a lowering. Raises KeyError where one is entered already."""

    def register(lowering: Lowering) -> Lowering:
        for name in names:
            enter(Operator(name, lowering, reads=frozenset(reads), inert=inert or {}, **more))
        return lowering

    return register


def enter(entry: Operator) -> None:
    """Adds an operator. Raises KeyError where it is in the table."""
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
    """Why a node of a file is not taken, in words that follow its operator's name; None where it is.

    ``read`` holds the values that other nodes or outputs of the graph read. Of an operator that is not in the table there is
    nothing to say.
    """
    entry = TABLE.get(node.op_type)
    if entry is None:
        return None
    if opset not in entry.opsets:
        first, last = entry.opsets.start, entry.opsets.stop - 1
        return f"its form at opset {opset} is not supported, those from {first} to {last} are"
    for name in node.attributes:
        value, usual = node.attributes.peek(name), default(node.op_type, name, _version(node, opset), node.domain)
        if name not in entry.reads and name not in entry.inert and not _equal(value, usual):
            said = "" if usual is None else f", only {_told(usual)} is, ONNX's default"
            return f"its attribute {name} = {_told(value)} is not supported{said}"
    for position, value in enumerate(node.inputs):
        if value and entry.inputs is not None and position >= entry.inputs:
            return f"its input {_named(node, opset, 'inputs', position)} is not supported"
    for position, value in enumerate(node.outputs):
        if value in read and entry.outputs is not None and position >= entry.outputs:
            return f"its output {_named(node, opset, 'outputs', position)} is read"
    return entry.refuses(node, opset)


def _version(node: Node, opset: int) -> int:
    """The opset of the file, where the operator is of ONNX's own domain; the newest of any other domain."""
    return opset if not node.domain else OPSETS.stop - 1


def unread(node: Node, opset: int) -> str | None:
    """The attribute that was said to be read, is not at its default, and was read by nobody; None where all were."""
    entry = TABLE.get(node.op_type)
    for name in sorted(entry.reads - node.attributes.read) if entry is not None else ():
        if name in node.attributes and not _equal(
            node.attributes.peek(name), default(node.op_type, name, _version(node, opset), node.domain)
        ):
            return f"its attribute {name} = {_told(node.attributes.peek(name))} is not honoured"
    return None


def kept(node: Node) -> Node:
    """A node as the file has it, whatever passes make of it later; it shares the memory of what was read."""
    return replace(node, inputs=list(node.inputs), outputs=list(node.outputs), attributes=node.attributes | {})


def _named(node: Node, opset: int, kind: str, position: int) -> str:
    formal = list(getattr(defs.get_schema(node.op_type, _version(node, opset), node.domain), kind))
    return str(formal[min(position, len(formal) - 1)].name) if formal else str(position)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        return a is not None and b is not None and list(a) == list(b)
    return type(a) is type(b) and bool(np.all(a == b))


def _told(value: Any) -> str:
    return shown(value.decode(errors="replace") if isinstance(value, bytes) else str(value), 60)
