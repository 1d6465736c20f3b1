"""Which output of a file is imported, and the nodes that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import TensorProto

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def only(model: onnx.ModelProto) -> str | None:
    """The only one of several outputs with floats by sample and class: exports of scikit-learn have one beside the label.

    None where the file has one output, or several of that kind.
    """
    candidates = [o.name for o in model.graph.output if _by_class(o)]
    return candidates[0] if len(model.graph.output) > 1 and len(candidates) == 1 else None


def _by_class(port: onnx.ValueInfoProto) -> bool:
    kind = port.type.tensor_type
    return port.type.HasField("tensor_type") and kind.elem_type in _FLOATS and len(kind.shape.dim) == 2


def nodes_for(graph: onnx.GraphProto, outputs: Iterable[str]) -> Sequence[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the file's order."""
    values, nodes = set(outputs), []
    for node in reversed(graph.node):
        if not values.isdisjoint(node.output):
            values.update(v for v in node.input if v)
            nodes.append(node)
    return nodes[::-1]
