"""Which output of a file is imported, and the nodes that it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import onnx
from onnx import TensorProto

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def only(model: onnx.ModelProto) -> str | None:
    """The only one of several outputs with floats by sample and class: exports of scikit-learn have one beside the label.

    A ZipMap gives them as a map from class to number. None where the file has one output, or several of that kind.
    """
    maps = {v for node in model.graph.node if node.op_type == "ZipMap" for v in node.output}
    candidates = [o.name for o in model.graph.output if o.name in maps or _by_class(o)]
    return candidates[0] if len(model.graph.output) > 1 and len(candidates) == 1 else None


def _by_class(port: onnx.ValueInfoProto) -> bool:
    kind = port.type.tensor_type
    return port.type.HasField("tensor_type") and kind.elem_type in _FLOATS and len(kind.shape.dim) == 2


def classes_of(attributes: Mapping[str, Any]) -> list[Any] | None:
    """The classes of a ZipMap, one a column, where a map gives them in the order of the columns; else None."""
    given = [v for name in ("classlabels_int64s", "classlabels_strings") if (v := attributes.get(name))]
    ascending = len(given) == 1 and all(a < b for a, b in pairwise(given[0]))
    return list(given[0]) if ascending else None


def nodes_for(graph: onnx.GraphProto, outputs: Iterable[str]) -> Sequence[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the file's order."""
    values, nodes = set(outputs), []
    for node in reversed(graph.node):
        if not values.isdisjoint(node.output):
            values.update(v for v in node.input if v)
            nodes.append(node)
    return nodes[::-1]
