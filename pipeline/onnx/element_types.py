"""Element types without bounds: half precision and smaller floats are refused, and so is a mixture of float32 and float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import TensorProto

from pipeline.errors import InputRejected
from pipeline.onnx.chosen_output import nodes_for
from pipeline.onnx.names import shown

_SMALL = {
    number: name.lower()
    for name, number in TensorProto.DataType.items()
    if name.startswith(("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4"))
}

_WIDTHS = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}


def check(neutral: onnx.ModelProto, kinds: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Raise InputRejected where a value computed on data is narrower than float32, or an operator mixes two widths.

    ``kinds``: what each computed value depends on; ``values``: the file's names of values. Weights that are stored in half
    precision and cast to float32 before they meet data are accepted.
    """
    inputs = {p.name: p.type.tensor_type.elem_type for p in neutral.graph.input}
    try:
        inferred = onnx.shape_inference.infer_shapes(neutral).graph
    except Exception as error:  # then the run decides
        if isinstance(error, MemoryError):
            raise
        inferred = neutral.graph
    types = inputs | {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    types |= {t.name: t.data_type for t in neutral.graph.initializer}
    nodes = nodes_for(neutral.graph, [o.name for o in neutral.graph.output])
    data = [(v, "an input of the model") for v in inputs]
    data += [(v, f"an output of {shown(n.op_type)}") for n in nodes for v in n.output if kinds.get(v) == "data"]
    small = [(v, where) for v, where in data if types.get(v) in _SMALL]
    if small:
        (first, where), counts = small[0], Counter(_SMALL[types[v]] for v, _ in small)
        raise InputRejected(
            f"Numbers in a model are float32 (or float64); '{shown(values.get(first, first))}', {where}, is"
            f" {_SMALL[types[first]]}, one of {', '.join(f'{count} {kind}' for kind, count in counts.items())}. How a runtime"
            " rounds them is bounded by no rule here. Certify the float32 model, as it was before its conversion to mixed"
            " precision, and deploy that; weights alone may be stored in half precision."
        )
    width = next((t for t in inputs.values() if t in _WIDTHS), TensorProto.FLOAT)
    data_values = {v for v, _ in data}
    for node in nodes:
        other_width = [v for v in node.input if v not in data_values and types.get(v) in _WIDTHS and types[v] != width]
        if other_width and data_values.intersection(node.input) and node.op_type != "Cast":
            raise InputRejected(
                f"Numbers in a model have one width, {_WIDTHS[width]} like its input; {shown(node.op_type)} computes"
                f" '{shown(values.get(node.output[0], node.output[0]))}' with {_WIDTHS[types[other_width[0]]]} constants."
                f" Export the model in {_WIDTHS[width]} throughout."
            )
