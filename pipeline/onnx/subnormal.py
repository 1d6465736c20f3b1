"""Subnormal numbers that a file computes constants from: read as zero, which the mode allows, they may make any other constant.

A subnormal weight costs at most what ``core/rounding.py`` charges where it meets data; of what a Mul or a Sign makes of it
beforehand nothing is charged.
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
"""Operators that make of a subnormal number itself, or nothing."""


def require(graph: Graph) -> None:
    """Raise InputRejected (3), naming the operator, where a constant of a file is computed from a subnormal number."""
    for own in graph.operators:
        if own.type not in MOVES and not graph.readers.keys().isdisjoint(own.outputs):
            if (found := _computed_from(graph, own)) is None:
                continue
            raise InputRejected(
                f"`--arithmetic float32-any-order` holds also where subnormal numbers are read as zero; {own} computes a"
                f" constant from {found:g}, and nothing bounds what it then makes of it. Write {_wanted(own)} into the file, or"
                " use `--arithmetic real`."
            )


def _wanted(own: GraphOperator) -> str:
    return "beta C as C, with a beta of 1," if own.type == "Gemm" else f"'{shown(own.outputs[0])}' as a number"


def _computed_from(graph: Graph, own: GraphOperator) -> float | None:
    """A subnormal number among what an operator makes constants of, None where there is none."""
    if own.type == "Gemm":
        return _of_bias(graph, own)
    if any(v and v not in graph.constants for v in own.inputs):
        return None
    numbers = [np.asarray(v, np.float32) for v in own.attributes.values() if isinstance(v, float)]
    found = (_subnormal(array) for array in [*numbers, *(graph.constants[v] for v in own.inputs if v)])
    return next((number for number in found if number is not None), None)


def _of_bias(graph: Graph, own: GraphOperator) -> float | None:
    """Of ``beta C``, where it is more than ``C`` itself or ``beta`` itself."""
    if not own.input(2) or own.input(2) not in graph.constants:
        return None
    beta, bias = np.float32(own.attributes.get("beta", 1.0)), graph.constants[own.input(2)]
    found = _subnormal(bias) if abs(beta) > 1 else None
    return _subnormal(np.asarray(beta)) if found is None and (np.abs(bias) > 1).any() else found


def _subnormal(array: np.ndarray) -> float | None:
    if array.dtype not in (np.float32, np.float64):
        return None
    below = array[(array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny)]
    return float(below.flat[0]) if below.size else None
