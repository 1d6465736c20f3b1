"""Which operators a model may have: those that ONNX itself defines, without control flow and without randomness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

import onnx
from onnx import defs, numpy_helper

from pipeline.errors import InputRejected
from pipeline.onnx.chosen_output import nodes_for
from pipeline.onnx.names import listed, shown
from pipeline.onnx.operators import OPSETS

STANDARD = ("", "ai.onnx")
CLASSICAL = "ai.onnx.ml"
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def check(model: onnx.ModelProto) -> None:
    """Rules for the whole file, whichever output is imported. Raises InputRejected, naming all operators that break one."""
    graph, version = model.graph, opset(model)
    if model.functions:
        raise InputRejected(
            f"Model-local functions are not supported; the file has {len(model.functions)}: inline them with"
            " onnx.inliner.inline_local_functions and save the result."
        )
    control_flow = Counter(
        n.op_type
        for n in graph.node
        if n.op_type in _CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in n.attribute)
    )
    if control_flow:
        raise InputRejected(
            f"Control flow is not supported (a branch must never be ignored); found {_counts_text(control_flow)}."
            " Export the network with fixed control flow."
        )
    domains = {e.domain for e in model.opset_import} | set(STANDARD)
    unimported = Counter(f"{n.op_type} of {n.domain}" for n in graph.node if n.domain not in domains)
    if unimported:
        raise InputRejected(
            f"Operators are ONNX's own, or of domains that the file imports; found {_counts_text(unimported)}. Export without"
            " custom operators or runtime-specific optimisation."
        )
    standard = [n for n in graph.node if n.domain in STANDARD]
    unknown = Counter(n.op_type for n in standard if not defs.has(n.op_type, max_inclusive_version=version))
    if unknown:
        raise InputRejected(
            f"Every operator is one that ONNX defines at the file's opset, {version}; these are not: {_counts_text(unknown)}."
            " Export the model again, at the opset that its operators need."
        )
    random = Counter(n.op_type for n in graph.node if n.op_type in _RANDOM)
    random.update(n.op_type + " in training mode" for n in graph.node if _trains(n, graph))
    if random:
        raise InputRejected(
            f"A model gives the same answer twice; found nondeterministic {_counts_text(random)}. Export it in eval mode."
        )


def require(model: onnx.ModelProto, output: str | None, supported: Container[str]) -> None:
    """Raise InputRejected for operators of other domains that ``output`` depends on, or that no output depends on.

    ``supported``: the operators of ai.onnx.ml that are supported.
    """
    names = [o.name for o in model.graph.output]
    output_names = [output] if output is not None else names
    needed_values = {v for n in nodes_for(model.graph, output_names) for v in n.output}
    other_values = {v for n in nodes_for(model.graph, set(names) - set(output_names)) for v in n.output} - needed_values
    foreign = [
        n
        for n in model.graph.node
        if n.domain not in STANDARD
        and not other_values.intersection(n.output)
        and not (n.domain == CLASSICAL and n.op_type in supported)
    ]
    if not foreign:
        return
    raise InputRejected(
        "Only the operators of ONNX itself are supported; found"
        f" {_counts_text(Counter(f'{n.op_type} of {n.domain}' for n in foreign))}. {_advice(foreign, names)}"
    )


def _advice(foreign: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> str:
    kinds = {n.op_type for n in foreign if n.domain == CLASSICAL}
    if any(kind.startswith("TreeEnsemble") for kind in kinds):
        return "Decision trees are no network: their steps have no bounds here."
    if kinds and len(outputs) > 1:
        return f"Where they belong to another output, name the one of the scores: --output, one of {listed(outputs)}."
    return "Export without custom operators or runtime-specific optimisation."


def opset(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own domain. Raises InputRejected for several, or one that is not supported."""
    versions = sorted({e.version for e in model.opset_import if e.domain in STANDARD})
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputRejected(
            f"One opset between {OPSETS.start} and {OPSETS.stop - 1} is supported; the file says"
            f" {versions or 'none'}. Export it again at opset 17."
        )
    if any(not 0 <= e.version < 1 << 31 for e in model.opset_import):
        raise InputRejected(
            "An opset is a small whole number, of every domain; this file says otherwise. Export it again."
        )
    return int(versions[0])


def _trains(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i for a in node.attribute)
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    tensors = {i.name: i for i in graph.initializer}
    tensors.update(
        {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    )
    training_mode = tensors.get(node.input[2])
    return training_mode is None or bool(numpy_helper.to_array(training_mode).any())


def _counts_text(counts: Counter[str]) -> str:
    return ", ".join(f"{shown(name)} ({count})" for name, count in sorted(counts.items())[:20]) + (
        f" and {len(counts) - 20} more" if len(counts) > 20 else ""
    )
