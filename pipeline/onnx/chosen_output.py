"""Which output of a file is meant, and what of the graph it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import TensorProto

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def only(model: onnx.ModelProto) -> str | None:
    """The one output of several that holds floats by sample and class, as exports of scikit-learn have one beside the label.

    None where the file has one output, or several such.
    """
    found = [o.name for o in model.graph.output if _by_class(o)]
    return found[0] if len(model.graph.output) > 1 and len(found) == 1 else None


def _by_class(port: onnx.ValueInfoProto) -> bool:
    kind = port.type.tensor_type
    return port.type.HasField("tensor_type") and kind.elem_type in _FLOATS and len(kind.shape.dim) == 2


def needed(graph: onnx.GraphProto, outputs: Iterable[str]) -> Sequence[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the file's order."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(v for v in node.input if v)
            kept.append(node)
    return kept[::-1]
