"""Refuses constants that a file computes from subnormal numbers: read as zero, which the mode allows, they may give any result.

For a subnormal weight itself ``core/rounding.py`` charges where it meets data; nothing is charged for what an operator such as
Mul or Sign computes from it before.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import InputRejected
from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.names import shown

MOVES = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather"),
    *("Expand", "Tile", "Pad", "Shape", "Size", "ConstantOfShape", "DepthToSpace", "SpaceToDepth"),
}
"""Operators that copy a subnormal number or ignore it."""


def require(graph: Graph) -> None:
    """Raise InputRejected (3), naming the operator, where a constant of a file is computed from a subnormal number."""
    for op in graph.operators:
        if op.type not in MOVES and not graph.readers.keys().isdisjoint(op.outputs):
            if (number := _computed_from(graph, op)) is None:
                continue
            raise InputRejected(
                f"`--arithmetic float32-any-order` holds also where subnormal numbers are read as zero; {op} computes a"
                f" constant from {number:g}, and nothing bounds what it then makes of it. Write {_remedy(op)} into the file, or"
                " use `--arithmetic real`."
            )


def _remedy(op: GraphOperator) -> str:
    return "beta C as C, with a beta of 1," if op.type == "Gemm" else f"'{shown(op.outputs[0])}' as a number"


def _computed_from(graph: Graph, op: GraphOperator) -> float | None:
    """A subnormal number from which an operator computes a constant, None where there is none."""
    if op.type == "Gemm":
        return _of_bias(graph, op)
    if any(v and v not in graph.constants for v in op.inputs):
        return None
    numbers = [np.asarray(v, np.float32) for v in op.attributes.values() if isinstance(v, float)]
    candidates = (_subnormal(array) for array in [*numbers, *(graph.constants[v] for v in op.inputs if v)])
    return next((number for number in candidates if number is not None), None)


def _of_bias(graph: Graph, op: GraphOperator) -> float | None:
    """A subnormal ``C`` that ``beta`` enlarges, or a subnormal ``beta`` that ``C`` enlarges, in ``beta C``; None for neither."""
    if not op.input(2) or op.input(2) not in graph.constants:
        return None
    beta, bias = np.float32(op.attributes.get("beta", 1.0)), graph.constants[op.input(2)]
    number = _subnormal(bias) if abs(beta) > 1 else None
    return _subnormal(np.asarray(beta)) if number is None and (np.abs(bias) > 1).any() else number


def _subnormal(array: np.ndarray) -> float | None:
    if array.dtype not in (np.float32, np.float64):
        return None
    below = array[(array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)]
    return float(below.flat[0]) if below.size else None
