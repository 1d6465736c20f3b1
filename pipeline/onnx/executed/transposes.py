"""The file's graph with transposes moved behind elementwise operators, as ONNX Runtime's optimiser moves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.onnx.executed.arrangements import ELEMENTWISE, SETTINGS
from pipeline.onnx.executed.graphs import Graph

MOVED = {*ELEMENTWISE, "Cast", "Identity"}


def transposes_behind(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each elementwise operator of values that are all transposed alike, and of constants, before their transpose.

    ``f(T(x), c) = T(f(x, c'))``, entry by entry the same float operations; ``c'`` is the constant turned back. Transposes that
    follow one another become one, or none. Names keep their values: an operator's own result is the transpose of a new value.
    """
    graph, moved = Graph(model), onnx.ModelProto()
    moved.CopyFrom(model)
    del moved.graph.node[:]
    before: dict[str, tuple[str, tuple[int, ...]]] = {}
    names = {*(v for n in model.graph.node for v in n.output), *(t.name for t in model.graph.initializer)}

    def fresh(name: str) -> str:
        name = next(n for n in (f"{name}{'_' * k}" for k in range(1, len(names) + 2)) if n not in names)
        names.add(name)
        return name

    for node in model.graph.node:
        if node.op_type == "Transpose" and not node.domain:
            perm = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
            if perm is not None:
                source, first = before.get(node.input[0], (node.input[0], tuple(range(len(perm)))))
                before[node.output[0]] = source, tuple(first[axis] for axis in perm)
                moved.graph.node.append(_turn(node.name, *before[node.output[0]], node.output[0]))
                continue
        operands = _before(graph, node, before)
        if operands is None:
            moved.graph.node.append(node)
            continue
        perm, inner = next(before[v][1] for v in node.input if v in before), fresh(node.output[0])
        for i, (name, constant) in enumerate(operands):
            if constant is not None:
                operands[i] = fresh(name), constant
                moved.graph.initializer.append(numpy_helper.from_array(constant, operands[i][0]))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = [name for name, _ in operands], [inner]
        moved.graph.node.extend([copy, _turn(fresh(node.name), inner, perm, node.output[0])])
        before[node.output[0]] = inner, perm
    return moved


def _turn(name: str, source: str, perm: tuple[int, ...], result: str) -> onnx.NodeProto:
    """A Transpose, or an Identity where it moves nothing."""
    if perm == tuple(range(len(perm))):
        return helper.make_node("Identity", [source], [result], name=name)
    return helper.make_node("Transpose", [source], [result], name=name, perm=perm)


def _before(
    graph: Graph, node: onnx.NodeProto, before: dict[str, tuple[str, tuple[int, ...]]]
) -> list[tuple[str, np.ndarray | None]] | None:
    """What a node reads instead: values before their transpose, new constants as arrays; None where it is not moved."""
    perms = {before[v][1] for v in node.input if v in before}
    if node.domain or node.op_type not in MOVED or len(perms) != 1 or len(node.output) != 1:
        return None
    (perm,) = perms
    found: list[tuple[str, np.ndarray | None]] = []
    for position, value in enumerate(node.input):
        if value in before:
            found.append((before[value][0], None))
        elif not value or position in SETTINGS.get(node.op_type, ()):
            found.append((value, None))
        else:
            constant = graph.constants[value] if value in graph.constants and graph.constants.fixed(value) else None
            if constant is None or constant.ndim > len(perm):
                return None
            found.append((value, _turned_back(constant, perm)))
    return found


def _turned_back(constant: np.ndarray, perm: Sequence[int]) -> np.ndarray | None:
    """A constant as it is combined with the value before its transpose; None for one number, which stays as it is."""
    if constant.size == 1 and constant.ndim == 0:
        return None
    whole = constant.reshape((1,) * (len(perm) - constant.ndim) + constant.shape)
    return np.ascontiguousarray(whole.transpose(np.argsort(perm)))
