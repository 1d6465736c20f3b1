"""Names in a file are untrusted text: the import uses neutral names, and escapes the file's own wherever it shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from pipeline.core.network import Origin
from pipeline.onnx.chosen_output import nodes_for


def shown(name: str, limit: int = 200) -> str:
    """A name from a file, for a message: control and non-ASCII characters escaped, truncated."""
    return name.encode("unicode_escape").decode("ascii")[:limit]


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Several names from a file, for a message: quoted and escaped; of those beyond ``limit`` only the number."""
    all_names = list(names)
    head = ", ".join(f"'{shown(n)}'" for n in all_names[:limit])
    return head + (f" and {len(all_names) - limit} more" if len(all_names) > limit else "")


@dataclass(frozen=True)
class Names:
    """The table from neutral names to the file's."""

    values: dict[str, str]
    """Neutral value name -> the file's."""
    nodes: dict[str, Origin]
    """Neutral name of a node's output value -> the node that the file computes it with."""


def neutralise(model: onnx.ModelProto, output: str | None = None) -> tuple[onnx.ModelProto, Names]:
    """A copy whose nodes are ``n0, n1, ...`` and whose values are ``v0, v1, ...``, and the table back.

    It has only the nodes that ``output`` depends on, where one is named, and no documentation, metadata or declared types of
    inner values. No name of the file may remain: onnx2torch makes module names of node names, and torch.fx puts those unescaped
    into source that it executes.
    """
    neutral: dict[str, str] = {"": ""}

    def rename(name: str) -> str:
        return neutral.setdefault(name, f"v{len(neutral) - 1}")

    copy = onnx.ModelProto(ir_version=model.ir_version)
    domains = {"ai.onnx": "", "": "", "ai.onnx.ml": "ai.onnx.ml"}
    # The same opset may be stated twice, under both names of ONNX's own domain.
    imports = {domains[e.domain]: e.version for e in model.opset_import if e.domain in domains}
    for domain, version in imports.items():
        copy.opset_import.add(domain=domain, version=version)
    graph = copy.graph
    graph.name = "graph"
    initialised = {i.name for i in model.graph.initializer}
    for source, target in ((model.graph.input, graph.input), (model.graph.output, graph.output)):
        for value in source:
            # A file of IR 3 must list its initialisers among the inputs; from IR 4 on they stand by themselves.
            if value.name in initialised if target is graph.input else output not in (None, value.name):
                continue
            port = target.add(name=rename(value.name))
            port.type.CopyFrom(value.type)
            _name_dimensions(port)
    nodes = nodes_for(model.graph, [output]) if output is not None else model.graph.node
    needed_values = {v for n in nodes for v in n.input} | {o.name for o in model.graph.output}
    for tensor in model.graph.initializer:
        if tensor.name not in needed_values:
            continue
        entry = graph.initializer.add()
        entry.CopyFrom(tensor)
        entry.name, entry.doc_string = rename(tensor.name), ""
    origins = {}
    for index, node in enumerate(nodes):
        entry = graph.node.add(op_type=node.op_type, domain=domains.get(node.domain, ""), name=f"n{index}")
        entry.input.extend(rename(v) for v in node.input)
        entry.output.extend(rename(v) for v in node.output)
        entry.attribute.extend(node.attribute)
        for file_name, name in zip(node.output, entry.output, strict=True):
            origins[name] = Origin(node.op_type, node.name, file_name)
    return copy, Names({n: f for f, n in neutral.items() if f}, origins)


def _name_dimensions(port: onnx.ValueInfoProto) -> None:
    """Give symbolic dimensions neutral names; equal ones stay equal only along the batch axis."""
    for axis, dim in enumerate(port.type.tensor_type.shape.dim):
        free = dim.HasField("dim_param") or not dim.HasField("dim_value") or dim.dim_value <= 0
        if free:
            dim.Clear()
            dim.dim_param = "batch" if axis == 0 else f"{port.name}_{axis}"
