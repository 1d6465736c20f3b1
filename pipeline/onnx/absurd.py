"""Attributes and constants that would crash or hang ONNX Runtime instead of raising an error: refused before any session.

ONNX Runtime divides by some attributes and integers without a check (SIGFPE), takes sizes of containers from others (abort),
and parses some texts without end. The rules were found by running one node at a time in a process of its own
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
"""The largest integer in an attribute: products of two stay within 64 bits."""
LEAST = {
    **dict.fromkeys(("kernel_shape", "strides", "dilations", "group", "blocksize", "num_groups"), 1),
    **dict.fromkeys(("hidden_size", "num_outputs", "size", "p", "pooled_shape"), 1),
    "batch_dims": 0,
}
_UNBOUNDED = {"Constant", "Slice", "Shape"}
"""Operators whose attributes are data, or where the largest integer means the end of an axis."""
_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def check(model: onnx.ModelProto) -> None:
    """Check a model whose tensors are loaded. Raises InputRejected naming the node, what it has and what is allowed."""
    values = _Values(model)
    for node in model.graph.node:
        for attribute in node.attribute:
            _check_attribute(node, attribute)
    # Shape inference, which these checks use, crashes on the same attributes: so all nodes pass the check above first.
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
            f"A Split has as many outputs as it says; {_describe(node)} says {attribute.i} and has {len(node.output)}."
            " Export the model again."
        )
    for number in (attribute.i,) if attribute.type == onnx.AttributeProto.INT else attribute.ints:
        if not least <= number <= LARGEST:
            raise InputRejected(
                f"Attribute {shown(attribute.name)} lies between {least} and {LARGEST}; {_describe(node)} has {number}."
                " Export the model again."
            )


def _check_equation(node: onnx.NodeProto, values: _Values) -> None:
    """An Einsum names each axis of its operands: ONNX Runtime aborts where there are more labels than axes."""
    text = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "").replace(" ", "")
    left, _, right = text.partition("->")
    terms = left.split(",")
    context = f"{_describe(node)} says '{shown(text)}'"
    if not all(map(_TERM.fullmatch, [*terms, right])) or len(terms) != len(node.input):
        raise InputRejected(
            f"The equation of an Einsum has a term of letters for each operand, and at most one ellipsis in each; {context}"
            f" of {len(node.input)} operands. Export the model again."
        )
    for term, value in zip(terms, node.input, strict=True):
        rank, labels = values.rank(value), len(term.replace("...", ""))
        if rank is None or labels > rank or (labels < rank and "..." not in term):
            rank_text = "whose axes cannot be counted" if rank is None else f"which has {rank}"
            raise InputRejected(
                f"The equation of an Einsum names each axis of its operands; {context} of '{shown(value)}', {rank_text}."
                " Export the model again, or with MatMul in its place."
            )


def _check_divisor(node: onnx.NodeProto, values: _Values) -> None:
    """An integer is divided by a constant of the file: ONNX Runtime crashes where that is 0, or -1 and the quotient overflows."""
    divisor, element_type = values.constant(node.input[1]), values.type(node.input[1])
    if divisor is None and element_type is not None and element_type not in _FLOATS:
        raise InputRejected(
            f"A whole number is divided by a constant of the file; {_describe(node)} divides by"
            f" '{shown(node.input[1])}', which is computed, and might be 0. Export the model at the size it is used with."
        )
    if divisor is not None and divisor.dtype.kind in "iu" and bool(((divisor == 0) | (divisor == -1)).any()):
        raise InputRejected(
            f"A whole number is divided by neither 0 nor -1; {_describe(node)} divides by"
            f" {int(divisor[(divisor == 0) | (divisor == -1)].flat[0])}. Export the model again."
        )


_FLOATS = {
    onnx.TensorProto.UNDEFINED,
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16),
}


class _Values:
    """Constants, ranks and types of values, without a run; the graph is only searched on first use."""

    def __init__(self, model: onnx.ModelProto):
        self._model = model
        self._types: Mapping[str, onnx.TypeProto.Tensor] | None = None
        self._tensors: dict[str, onnx.TensorProto] | None = None

    def constant(self, name: str) -> np.ndarray | None:
        """A constant of the file as an array, None for a computed value."""
        if self._tensors is None:
            self._tensors = {t.name: t for t in self._model.graph.initializer}
            self._tensors.update(_constants(self._model.graph))
        return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def rank(self, name: str) -> int | None:
        if (constant := self.constant(name)) is not None:
            return constant.ndim
        value_type = self._inferred().get(name)
        return len(value_type.shape.dim) if value_type is not None and value_type.HasField("shape") else None

    def type(self, name: str) -> int | None:
        """The element type of a computed value; None where it is unknown."""
        value_type = self._inferred().get(name)
        return None if value_type is None else value_type.elem_type

    def _inferred(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        if self._types is None:
            copy = onnx.ModelProto()
            copy.CopyFrom(self._model)
            # Shapes and types that the file declares must not replace those that follow from its operators.
            del copy.graph.value_info[:]
            for port in copy.graph.output:
                port.type.tensor_type.ClearField("shape")
            try:
                graph = onnx.shape_inference.infer_shapes(copy).graph
            except Exception as error:  # where inference fails, nothing is known
                if isinstance(error, MemoryError):
                    raise
                graph = copy.graph
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


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{shown(node.name or (node.output[0] if node.output else ''))}'"
