"""LayerNormalization in one kernel with the sums before it; its steps are among those that ``rules/programs.py`` charges."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.matching import Matching, Pair, Steps, rewriting, skip_copies


@rewriting("com.microsoft.SkipLayerNormalization")
def skip_layer_norm(matching: Matching, op: GraphOperator, index: int, pair: Pair) -> Steps:
    """A LayerNormalization over the last axis, of a sum that its kernel computes too."""
    name, norm = skip_copies(matching.file, pair.file)
    if (
        norm is None
        or norm.type != "LayerNormalization"
        or norm.outputs[0] != name
        or not pair.view.plain
        or index != 0
    ):
        return False
    rank, axis = matching.file.rank(norm.inputs[0]), norm.attributes.get("axis", -1)
    if rank is None or axis % rank != rank - 1 or not _same_epsilon(op, norm) or norm.attributes["stash_type"] != 1:
        return False
    for position, file_position in ((2, 1), (3, 2)):
        executed, file = op.input(position), norm.input(file_position)
        if bool(executed) != bool(file) or (executed and not (yield Pair(executed, file))):
            return False
    addends = _addends(matching.file, norm.inputs[0], bool(op.input(4)))
    if not _of_one_shape(matching.file, addends[:2]):
        return matching.refuse(op, "it adds values that may differ in shape")
    for order in permutations(addends):
        for executed, file in zip((op.inputs[0], op.inputs[1], op.input(4)), order, strict=False):
            if not (yield Pair(executed, file)):
                break
        else:
            return bool(order)
    return False


def _of_one_shape(graph: Graph, addends: tuple[str, ...]) -> bool:
    """Whether two computed values have as many axes, and the same sizes behind the batch: the kernel broadcasts its own way."""
    shapes = [graph.types[v].shape.dim for v in addends if v in graph.types and v not in graph.constants]
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
        return False
    return all(a.dim_value == b.dim_value > 0 for a, b in zip(shapes[0][1:], shapes[1][1:], strict=True))


def _same_epsilon(op: GraphOperator, norm: GraphOperator) -> bool:
    return np.float32(op.attributes.get("epsilon", 1e-12)) == np.float32(norm.attributes.get("epsilon", 1e-5))


def _addends(graph: Graph, total: str, with_bias: bool) -> tuple[str, ...]:
    """The operands of a sum of two; with a bias, of a product of matrices, its bias and another value; () of another value.

    Of the latter the order does not matter: what is added behind a layer is charged as if its whole sum were added to it.
    """
    _, last = skip_copies(graph, total)
    if last is None or last.type != "Add":
        return ()
    if not with_bias:
        return last.inputs
    for inner, other in (last.inputs, last.inputs[::-1]):
        _, layer = skip_copies(graph, inner)
        if layer is None or layer.type != "Add":
            continue
        for product, bias in (layer.inputs, layer.inputs[::-1]):
            _, matmul = skip_copies(graph, product)
            if matmul is None or matmul.type != "MatMul":
                continue
            if all(value in graph.constants for value in (matmul.inputs[1], bias)):
                return product, other, bias
    return ()
