"""Every product with a constant in one form: ``y = x W^T + b``, W of shape ``(out, in)``, b of shape ``(out,)``.

Gemm with transposes, MatMul with and without an Add after it, and a bias that a separate Add gives to a convolution become this
form; the ConstantSource of a weight holds the steps that undo the change. Gemm's alpha becomes a Mul behind the product, where
a runtime multiplies by it: in the weights, products would overflow and underflow elsewhere. Its beta is multiplied into a bias
where that is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.network import Origin
from pipeline.onnx.ir import Attributes, Draft, Node

DOMAIN = "pipeline"
"""The domain of ``Linear``, an operator of the import: ``x W^T + b`` for inputs of any rank."""


def canonical(draft: Draft) -> None:
    """Rewrite Gemm and MatMul by a constant, then make an Add behind a product or convolution without bias its bias."""
    nodes: list[Node] = []
    for node in draft.nodes:
        if node.op_type == "Gemm":
            nodes.extend(_gemm(draft, node))
        elif node.op_type == "MatMul":
            nodes.append(_matmul(draft, node))
        else:
            nodes.append(node)
    draft.nodes = nodes
    _join_bias(draft)


def _transposed(draft: Draft, name: str) -> str:
    return draft.derive(name, np.ascontiguousarray(draft.constants[name].T), ("transpose", (1, 0)), key="T")


def _scaled(draft: Draft, name: str, factor: float) -> str:
    """A constant times a number; empty where that is not exact, or subnormal."""
    if factor == 1.0:
        return name
    array = draft.constants[name]
    exact = array.astype(np.float64) * factor
    with np.errstate(over="ignore", under="ignore"):
        product = exact.astype(array.dtype)
    normal = (product == 0) | (np.abs(product) >= np.finfo(array.dtype).tiny)
    if not (np.isfinite(product) & normal & (product == exact)).all():
        return ""
    return draft.derive(name, product, ("scale", 1.0 / factor), key=f"times_{factor.hex()}")


def _gemm(draft: Draft, node: Node) -> list[Node]:
    """``alpha op(A) op(B) + beta C``: for a constant B as Gemm with transB, for a computed one as Transpose, MatMul, Mul, Add."""
    a, b, c = node.inputs[0], node.inputs[1], node.input(2)
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    nodes: list[Node] = []
    if node.attributes.get("transA", 0):
        a = _emit(draft, nodes, "Transpose", [a], {"perm": [1, 0]})
    if b not in draft.constants or alpha == 0.0:
        if node.attributes.get("transB", 0):
            b = _emit(draft, nodes, "Transpose", [b], {"perm": [1, 0]})
        product = _emit(draft, nodes, "MatMul", [a, b])
        if alpha != 1.0:
            product = _emit(
                draft, nodes, "Mul", [product, draft.constant(np.asarray(alpha, draft.dtypes[node.output]))]
            )
        return [*nodes, *_plus(draft, node, nodes, product, c, beta)]
    weight = b if node.attributes.get("transB", 0) else _transposed(draft, b)
    size = draft.constants[weight].shape[0]
    if alpha == 1.0 and c and beta != 0.0 and (bias := _as_bias(draft, c, size, scale=beta)):
        return [*nodes, Node("Gemm", [a, weight, bias], node.outputs, Attributes({"transB": 1}))]
    product = _emit(draft, nodes, "Gemm", [a, weight], {"transB": 1})
    if alpha != 1.0:
        product = _emit(draft, nodes, "Mul", [product, draft.constant(np.asarray(alpha, draft.dtypes[node.output]))])
    return [*nodes, *_plus(draft, node, nodes, product, c, beta)]


def _plus(draft: Draft, node: Node, nodes: list[Node], product: str, c: str, beta: float) -> list[Node]:
    """The nodes that add ``beta c`` to the product of a decomposed Gemm, the last of which has the Gemm's output."""
    if not c or beta == 0.0:
        nodes[-1].outputs = list(node.outputs)
        return []
    if beta != 1.0:
        scaling: list[Node] = []
        c = _emit(draft, scaling, "Mul", [c, draft.constant(np.asarray(beta, draft.dtypes[node.output]))])
        return [*scaling, Node("Add", [product, c], node.outputs)]
    return [Node("Add", [product, c], node.outputs)]


def _emit(
    draft: Draft, nodes: list[Node], op_type: str, inputs: list[str], attributes: dict[str, Any] | None = None
) -> str:
    name, shapes = draft.fresh(), [draft.shapes.get(v) for v in inputs]
    nodes.append(Node(op_type, inputs, [name], Attributes(attributes)))
    draft.dtypes[name] = draft.dtypes.get(inputs[0], np.dtype(np.float32))
    if None not in shapes:
        draft.shapes[name] = _shape(op_type, *(s for s in shapes if s is not None))
    return name


def _shape(op_type: str, a: tuple[int, ...], b: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The shape of the result of one part of a decomposed Gemm; the second operand of ``Gemm`` itself is transposed."""
    return {"Transpose": a[::-1], "MatMul": (*a[:-1], *b[-1:]), "Gemm": (*a[:-1], *b[:1])}.get(op_type, a)


def _matmul(draft: Draft, node: Node) -> Node:
    """MatMul of a value by a constant matrix, as Gemm for inputs of rank 2 and as Linear for others."""
    x, w = node.inputs
    if w not in draft.constants or x in draft.constants or draft.constants[w].ndim != 2:
        return node
    weight = _transposed(draft, w)
    if len(draft.shapes[x]) == 2:
        return Node("Gemm", [x, weight], node.outputs, Attributes({"transB": 1}))
    return Node("Linear", [x, weight], node.outputs, domain=DOMAIN)


def _join_bias(draft: Draft) -> None:
    """Where only an Add of a constant of fitting shape reads the value of a layer without bias, make the constant its bias."""
    uses, producers = draft.uses(), draft.producers()
    absorbed = []
    for node in draft.nodes:
        layer, bias = _layer_and_bias(draft, node, producers) if node.op_type == "Add" else (None, "")
        if layer is None or uses[layer.output] != 1:
            continue
        origin = draft.origins.get(layer.output)
        add_origin = draft.origins.get(node.output)
        layer.inputs.append(bias)
        layer.outputs = list(node.outputs)
        producers[node.output] = layer
        if origin is not None and add_origin is not None:
            draft.origins[node.output] = Origin(origin.op_type, origin.name, add_origin.output)
        absorbed.append(id(node))
    draft.nodes = [n for n in draft.nodes if id(n) not in absorbed]


def _layer_and_bias(draft: Draft, add: Node, producers: dict[str, Node]) -> tuple[Node | None, str]:
    for value, constant in (add.inputs, add.inputs[::-1]):
        layer = producers.get(value)
        if constant not in draft.constants or layer is None or len(layer.inputs) != 2:
            continue
        if layer.op_type in ("Gemm", "Linear"):
            size, trailing = draft.constants[layer.inputs[1]].shape[0], 0
        elif layer.op_type == "Conv" and layer.inputs[1] in draft.constants:
            size, trailing = draft.constants[layer.inputs[1]].shape[0], len(draft.shapes[value]) - 2
        else:
            continue
        if draft.constants[constant].ndim > len(draft.shapes.get(value, (0,) * 99)):
            continue  # the Add would raise the rank
        if bias := _as_bias(draft, constant, size, trailing=trailing, exact=True):
            return layer, bias
    return None, ""


def _as_bias(draft: Draft, name: str, size: int, *, scale: float = 1.0, trailing: int = 0, exact: bool = False) -> str:
    """The name of the constant, times ``scale``, as a vector of ``size``; empty where it varies along another axis.

    A Gemm's single number is repeated (the file's initialiser grows when it is written back), unless ``exact``.
    ``trailing``: how many axes of the layer's output stand behind that of its channels.
    """
    if name not in draft.constants:
        return ""
    array = draft.constants[name]
    shape = (1,) * max(0, trailing + 1 - array.ndim) + array.shape
    axis = len(shape) - 1 - trailing
    fits = shape[axis] == size and all(d == 1 for i, d in enumerate(shape) if i != axis)
    if fits:
        if array.ndim != 1:
            name = draft.derive(name, array.reshape(size), ("reshape", tuple(array.shape)), key="flat")
        return _scaled(draft, name, scale)
    if array.size != 1 or exact or not (scaled := _scaled(draft, name, scale)):
        return ""
    return draft.derive(scaled, np.full(size, draft.constants[scaled].reshape(()), array.dtype), key=f"spread_{size}")
