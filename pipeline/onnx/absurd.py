"""Numbers and texts that end the process which a runtime runs in, and not with an error: refused before any session is made.

ONNX Runtime divides by some attributes and by whole numbers as they come (SIGFPE), takes sizes of containers from others
(abort), and reads some texts for ever. What stands here was found by running one node at a time in a process of its own
(``tests/onnx/test_absurd.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.errors import InputRejected
from pipeline.onnx.names import shown

LARGEST = 2**31 - 1
"""Of a whole number in an attribute: products of two stay within 64 bits."""
LEAST = {
    **dict.fromkeys(("kernel_shape", "strides", "dilations", "group", "blocksize", "num_groups"), 1),
    **dict.fromkeys(("hidden_size", "num_outputs", "size", "p", "pooled_shape"), 1),
    "batch_dims": 0,
}
_UNBOUNDED = {"Constant", "Slice", "Shape"}
"""Operators whose attributes are data, or where the largest number there is means the end."""
_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def check(model: onnx.ModelProto) -> None:
    """Of a model whose tensors are loaded. Raises InputRejected naming the node, what stands there and what may."""
    values = _Values(model)
    for node in model.graph.node:
        for attribute in node.attribute:
            _check_attribute(node, attribute)
    # Shapes are inferred from here on, and that, too, ends the process at what is refused above, wherever it stands.
    for node in model.graph.node:
        if node.op_type == "Einsum":
            _check_equation(node, values)
        elif node.op_type in ("Div", "Mod") and len(node.input) == 2:
            _check_divisor(node, values)


def _check_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if node.op_type in _UNBOUNDED or attribute.type not in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS):
        return
    least = LEAST.get(attribute.name, -LARGEST)
    if (node.op_type, attribute.name) == ("Split", "num_outputs") and attribute.i != len(node.output):
        raise InputRejected(
            f"A Split has as many outputs as it says; {_named(node)} says {attribute.i} and has {len(node.output)}."
            " Export the model again."
        )
    for number in (attribute.i,) if attribute.type == onnx.AttributeProto.INT else attribute.ints:
        if not least <= number <= LARGEST:
            raise InputRejected(
                f"Attribute {shown(attribute.name)} lies between {least} and {LARGEST}; {_named(node)} has {number}."
                " Export the model again."
            )


def _check_equation(node: onnx.NodeProto, values: _Values) -> None:
    """An Einsum names the axes that its operands have: ONNX Runtime aborts where there are more labels than axes."""
    text = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "").replace(" ", "")
    left, _, right = text.partition("->")
    terms = left.split(",")
    said = f"{_named(node)} says '{shown(text)}'"
    if not all(map(_TERM.fullmatch, [*terms, right])) or len(terms) != len(node.input):
        raise InputRejected(
            f"The equation of an Einsum has a term of letters for each operand, and at most one ellipsis in each; {said}"
            f" of {len(node.input)} operands. Export the model again."
        )
    for term, value in zip(terms, node.input, strict=True):
        rank, labels = values.rank(value), len(term.replace("...", ""))
        if rank is None or labels > rank or (labels < rank and "..." not in term):
            has = "whose axes cannot be counted" if rank is None else f"which has {rank}"
            raise InputRejected(
                f"The equation of an Einsum names each axis of its operands; {said} of '{shown(value)}', {has}. Export the"
                " model again, or with MatMul in its place."
            )


def _check_divisor(node: onnx.NodeProto, values: _Values) -> None:
    """A whole number is divided by one that the file holds: ONNX Runtime's process ends where it is 0, or -1 and overflows."""
    held, kind = values.held(node.input[1]), values.type(node.input[1])
    if held is None and kind is not None and kind not in _FLOATS:
        raise InputRejected(
            f"A whole number is divided by a constant of the file; {_named(node)} divides by"
            f" '{shown(node.input[1])}', which is computed, and might be 0. Export the model at the size it is used with."
        )
    if held is not None and held.dtype.kind in "iu" and bool(((held == 0) | (held == -1)).any()):
        raise InputRejected(
            f"A whole number is divided by neither 0 nor -1; {_named(node)} divides by"
            f" {int(held[(held == 0) | (held == -1)].flat[0])}. Export the model again."
        )


_FLOATS = {
    onnx.TensorProto.UNDEFINED,
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
}


class _Values:
    """What is known of values before anything is run; the graph is only gone through where something is asked."""

    def __init__(self, model: onnx.ModelProto):
        self._model = model
        self._types: Mapping[str, onnx.TypeProto.Tensor] | None = None
        self._tensors: dict[str, onnx.TensorProto] | None = None

    def held(self, name: str) -> np.ndarray | None:
        """A constant of the file."""
        if self._tensors is None:
            self._tensors = {t.name: t for t in self._model.graph.initializer}
            self._tensors.update(_constants(self._model.graph))
        return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def rank(self, name: str) -> int | None:
        if (held := self.held(name)) is not None:
            return held.ndim
        kind = self._inferred().get(name)
        return len(kind.shape.dim) if kind is not None and kind.HasField("shape") else None

    def type(self, name: str) -> int | None:
        """The type of the elements of a computed value; None where it cannot be told."""
        kind = self._inferred().get(name)
        return None if kind is None else kind.elem_type

    def _inferred(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        if self._types is None:
            bare = onnx.ModelProto()
            bare.CopyFrom(self._model)
            # What the file says of its own values must not stand in the place of what follows from its operators.
            del bare.graph.value_info[:]
            for port in bare.graph.output:
                port.type.tensor_type.ClearField("shape")
            try:
                graph = onnx.shape_inference.infer_shapes(bare).graph
            except Exception as error:  # a graph of which onnx finds nothing: nothing is known then
                if isinstance(error, MemoryError):
                    raise
                graph = bare.graph
            ports = (*graph.input, *graph.value_info, *graph.output)
            self._types = {port.name: port.type.tensor_type for port in ports}
        return self._types


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute:
            attribute = node.attribute[0]
            if attribute.name == "value":
                yield node.output[0], attribute.t
            elif attribute.name in ("value_int", "value_ints"):
                numbers = attribute.i if attribute.name == "value_int" else list(attribute.ints)
                yield node.output[0], numpy_helper.from_array(np.asarray(numbers, np.int64))


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{shown(node.name or (node.output[0] if node.output else ''))}'"
