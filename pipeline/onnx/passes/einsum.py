"""Einsum of two operands as MatMul, where one label is summed over, with Transposes where labels are in another order."""

from __future__ import annotations

import re

import numpy as np

from pipeline.onnx.ir import Attributes, Draft, Node


def lower(draft: Draft) -> None:
    """Rewrite every Einsum that is one MatMul; any other stays, and its lowering refuses it by name."""
    nodes: list[Node] = []
    for node in draft.nodes:
        nodes.extend(_product(draft, node) if node.op_type == "Einsum" else [node])
    draft.nodes = nodes


def _product(draft: Draft, node: Node) -> list[Node]:
    equation = node.attributes.get("equation", b"").decode(errors="replace").replace(" ", "")
    match = re.fullmatch(r"([A-Za-z]+),([A-Za-z]+)->([A-Za-z]+)", equation)
    if match is None or any(len(set(labels)) < len(labels) for labels in match.groups()):
        return [node]
    (a, b, out), (x, y) = match.groups(), node.inputs
    if x in draft.constants:
        a, b, x, y = b, a, y, x
    if any(draft.shapes[x][a.index(label)] != draft.shapes[y][b.index(label)] for label in a if label in b):
        return [node]  # a runtime may broadcast a size of one, which MatMul does not
    shared = [label for label in out if label in a and label in b]
    left, right = ([label for label in one if label not in other] for one, other in ((a, b), (b, a)))
    contracted = [label for label in a if label in b and label not in out]
    # MatMul broadcasts the axes before the last two.
    one_matrix = len(right) == len(contracted) == 1 and (len(left) == 1 or not shared)
    if not one_matrix or set(out) != {*shared, *left, *right}:
        return [node]
    nodes: list[Node] = []
    first = _ordered(draft, nodes, x, a, [*shared, *left, *contracted])
    second = _ordered(draft, nodes, y, b, [*shared, *contracted, *right])
    nodes.append(Node("MatMul", [first, second], list(node.outputs)))
    order = [*shared, *left, *right]
    if order != list(out):
        nodes[-1].outputs = [draft.fresh()]
        draft.dtypes[nodes[-1].output] = draft.dtypes[node.output]
        draft.shapes[nodes[-1].output] = tuple(draft.shapes[node.output][out.index(label)] for label in order)
        perm = Attributes({"perm": [order.index(i) for i in out]})
        nodes.append(Node("Transpose", [nodes[-1].output], list(node.outputs), perm))
    return nodes


def _ordered(draft: Draft, nodes: list[Node], value: str, labels: str, order: list[str]) -> str:
    """The name of the value with its axes in that order; a Transpose is added to ``nodes`` where one is needed."""
    perm = [labels.index(label) for label in order]
    if perm == sorted(perm):
        return value
    if value in draft.constants:
        array = np.ascontiguousarray(draft.constants[value].transpose(perm))
        back = tuple(int(i) for i in np.argsort(perm))
        return draft.derive(value, array, ("transpose", back), key="by_" + "_".join(map(str, perm)))
    name = draft.fresh()
    draft.shapes[name] = tuple(draft.shapes[value][i] for i in perm)
    draft.dtypes[name] = draft.dtypes[value]
    nodes.append(Node("Transpose", [value], [name], Attributes({"perm": perm})))
    return name
