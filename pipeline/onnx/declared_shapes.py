"""Checks of measured shapes: no value is empty, and outputs have the shapes that the file declares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from pipeline.errors import InputRejected
from pipeline.onnx.names import Names, shown
from pipeline.onnx.probe import Probes


def check_widths(
    neutral: onnx.ModelProto, kinds: Mapping[str, str], values: Mapping[str, np.ndarray], names: Names
) -> None:
    """Raise InputRejected for a value computed on data that has no entries."""
    for node in neutral.graph.node:
        for value in node.output:
            if value in values and kinds.get(value) == "data" and 0 in np.shape(values[value]):
                raise InputRejected(
                    f"A layer has at least one unit; '{shown(names.values[value])}', an output of {shown(node.op_type)}, has"
                    f" shape {list(np.shape(values[value]))} and holds no number. Export the network without it."
                )


def check_shapes(neutral: onnx.ModelProto, kinds: Mapping[str, str], probes: Probes, names: Names) -> None:
    """Raise InputRejected as ``check_widths`` does, and for an output of another shape than it declares.

    Where the batch is free, the first axis may differ: exporters that traced one sample declare a batch of one.
    """
    first = probes.values[0]
    check_widths(neutral, kinds, first, names)
    for port in neutral.graph.output:
        if not port.type.tensor_type.HasField("shape") or port.name not in first:
            continue
        declared = [d.dim_value if d.dim_value > 0 else None for d in port.type.tensor_type.shape.dim]
        measured = list(np.shape(first[port.name]))
        pairs = list(zip(declared, measured, strict=False))[1 if probes.free else 0 :]
        if len(declared) != len(measured) or any(d is not None and d != f for d, f in pairs):
            declaration = ", ".join("?" if d is None else str(d) for d in declared)
            raise InputRejected(
                f"An output has the shape that the file declares; '{shown(names.values[port.name])}' declares [{declaration}] and"
                f" has {measured}. Correct the declaration, or export the model again."
            )
