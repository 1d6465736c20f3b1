"""Which operators a model may hold: those that ONNX itself defines, without branches, without chance."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import defs, numpy_helper

from pipeline.errors import InputRejected
from pipeline.graph.names import shown

OPSETS = range(7, 24)
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def check(model: onnx.ModelProto) -> None:
    """Raises InputRejected, naming all operators that break the rule, with counts."""
    graph, opset = model.graph, _opset(model)
    if model.functions:
        raise InputRejected(
            f"Model-local functions are not supported; the file has {len(model.functions)}: inline them with"
            " onnx.inliner.inline_local_functions and save the result."
        )
    nested = Counter(
        n.op_type
        for n in graph.node
        if n.op_type in _CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in n.attribute)
    )
    if nested:
        raise InputRejected(
            f"Control flow is not supported (a branch must never be ignored); found {_counted(nested)}."
            " Export the network with fixed control flow."
        )
    foreign = Counter(f"{n.op_type} of {n.domain}" for n in graph.node if n.domain not in ("", "ai.onnx"))
    if foreign:
        raise InputRejected(
            f"Only the operators of ONNX itself are supported; found {_counted(foreign)}. Export without custom operators or"
            " runtime-specific optimisation."
        )
    unknown = Counter(n.op_type for n in graph.node if not defs.has(n.op_type, max_inclusive_version=opset))
    if unknown:
        raise InputRejected(
            f"Every operator is one that ONNX defines at the file's opset, {opset}; these are not: {_counted(unknown)}."
            " Export the model again, at the opset that its operators need."
        )
    random = Counter(n.op_type for n in graph.node if n.op_type in _RANDOM)
    random.update(n.op_type + " in training mode" for n in graph.node if _trains(n, graph))
    if random:
        raise InputRejected(
            f"A model gives the same answer twice; found nondeterministic {_counted(random)}. Export it in eval mode."
        )


def _opset(model: onnx.ModelProto) -> int:
    versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputRejected(
            f"One opset between {OPSETS.start} and {OPSETS.stop - 1} is supported; the file says"
            f" {versions or 'none'}. Export it again at opset 17."
        )
    return int(versions[0])


def _trains(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i for a in node.attribute)
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    held = {i.name: i for i in graph.initializer}
    held.update(
        {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    )
    flag = held.get(node.input[2])
    return flag is None or bool(numpy_helper.to_array(flag).any())


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{shown(name)} ({count})" for name, count in sorted(counts.items())[:20]) + (
        f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    )
