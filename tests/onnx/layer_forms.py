"""Every form in which a file can hold a layer with weights that the importer reads: ``x -> h`` of a small classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from tests.onnx.files import model, node, weights

ROWS = ("batch", 4)


@dataclass(frozen=True)
class LayerForm:
    """The nodes of a layer, the constants they read, and the shape of ``x``."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    tensors: dict[str, np.ndarray]
    shape: tuple[int | str, ...] = ROWS

    def classifier(self) -> onnx.ModelProto:
        """The layer, a ReLU and a last layer of two classes."""
        nodes = [*self.nodes, node("Relu", ["h"], ["positive"]), node("Flatten", ["positive"], ["flat"])]
        bare = model(nodes, [1, *self.shape[1:]], self.tensors, outputs=["flat"])
        (output,) = shape_inference.infer_shapes(bare, data_prop=True).graph.output
        count = output.type.tensor_type.shape.dim[1].dim_value
        last = node("Gemm", ["flat", "last"], ["y"], name="last")
        return model([*nodes, last], self.shape, self.tensors | {"last": weights(count, 2, seed=9)})


def gemm(alpha: float, beta: float, turned: tuple[int, int], bias: tuple[int, ...] | None) -> LayerForm:
    """``alpha op(x) op(w) + beta c``; ``turned``: transA and transB."""
    attributes = {"alpha": alpha, "beta": beta, "transA": turned[0], "transB": turned[1]}
    given = {k: v for k, v in attributes.items() if v != (1.0 if k in ("alpha", "beta") else 0)}
    tensors = {"w": weights(3, 4) if turned[1] else weights(4, 3)}
    if bias is not None:
        tensors["c"] = np.asarray(weights(*bias, seed=1), np.float32)
    x = "across" if turned[0] else "x"
    nodes = [node("Gemm", [x, *tensors], ["h"], name="layer", **given)]
    if turned[0]:
        nodes.insert(0, node("Transpose", ["x"], [x], perm=[1, 0]))
    return LayerForm("Gemm", tuple(nodes), tensors)


def layer_forms() -> Iterator[LayerForm]:
    """All others."""
    yield from _products()
    yield from _behind()
    yield from _shared()
    yield from _gemms()
    for rank in (1, 2, 3):
        yield from _convolutions(rank)


def _products() -> Iterator[LayerForm]:
    w, b = weights(4, 3), weights(3, seed=1)
    product = node("MatMul", ["x", "w"], ["p"])
    yield LayerForm("MatMul", (node("MatMul", ["x", "w"], ["h"]),), {"w": w})
    for shape in ((3,), (1, 3), (1,), ()):
        for order in (["p", "b"], ["b", "p"]):
            tensors = {"w": w, "b": np.asarray(weights(*shape, seed=1), np.float32)}
            yield LayerForm(f"MatMul Add {shape} {order[0]}", (product, node("Add", order, ["h"])), tensors)
    twice = (product, node("Add", ["p", "b"], ["q"]), node("Add", ["q", "b"], ["h"]))
    yield LayerForm("MatMul, the same bias twice", twice, {"w": w, "b": b})
    yield LayerForm("MatMul Sub", (product, node("Sub", ["p", "b"], ["h"])), {"w": w, "b": b})
    tensors = {"w": w, "s": np.array(2.5, np.float32), "b": b}
    yield LayerForm("MatMul Mul", (product, node("Mul", ["p", "s"], ["h"])), {"w": w, "s": tensors["s"]})
    scaled = (product, node("Mul", ["p", "s"], ["q"]), node("Add", ["q", "b"], ["h"]))
    yield LayerForm("MatMul Mul Add", scaled, tensors)
    across, back = node("Transpose", ["x"], ["t"], perm=[1, 0]), node("Transpose", ["u"], ["h"], perm=[1, 0])
    left = node("MatMul", ["w", "t"], ["u"])
    yield LayerForm("weight on the left", (across, left, back), {"w": weights(3, 4)})
    biased = (across, node("MatMul", ["w", "t"], ["v"]), node("Add", ["v", "b"], ["u"]), back)
    yield LayerForm("weight on the left, bias", biased, {"w": weights(3, 4), "b": weights(3, 1)})
    wide = ("batch", 4, 2)
    yield LayerForm("left, rank 3", (node("MatMul", ["w", "x"], ["h"]),), {"w": weights(3, 4)}, wide)
    biased = (node("MatMul", ["w", "x"], ["p"]), node("Add", ["p", "b"], ["h"]))
    yield LayerForm("left, rank 3, bias", biased, {"w": weights(3, 4), "b": weights(3, 1)}, wide)
    yield LayerForm("rank 3", (node("MatMul", ["x", "w"], ["h"]),), {"w": w}, ("batch", 2, 4))
    yield LayerForm("rank 3, bias", (product, node("Add", ["p", "b"], ["h"])), {"w": w, "b": b}, ("batch", 2, 4))
    yield LayerForm("stacked", (node("MatMul", ["x", "w"], ["h"]),), {"w": weights(2, 4, 3)}, ("batch", 2, 5, 4))
    for equation, held_w in (("ni,io->no", w), ("ni,oi->no", weights(3, 4))):
        yield LayerForm(f"Einsum {equation}", (node("Einsum", ["x", "w"], ["h"], equation=equation),), {"w": held_w})
    first = node("Einsum", ["w", "x"], ["h"], equation="oi,ni->no")
    yield LayerForm("Einsum, weight first", (first,), {"w": weights(3, 4)})


def _behind() -> Iterator[LayerForm]:
    """Weights that something makes of an initialiser."""
    w, product = weights(4, 3), node("MatMul", ["x", "w"], ["h"])
    given = onnx.helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w))
    yield LayerForm("Constant", (given, product), {})
    given = onnx.helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(w))
    yield LayerForm("Constant Identity", (given, node("Identity", ["v"], ["w"]), product), {})
    twice = (node("Identity", ["u"], ["v"]), node("Identity", ["v"], ["w"]), product)
    yield LayerForm("Identity Identity", twice, {"u": w})
    for operator, tensors, attributes in (
        ("Identity", [w], {}),
        ("Transpose", [w.T], {"perm": [1, 0]}),
        ("Transpose", [w.T], {}),
        ("Cast", [w], {"to": 1}),
        ("Cast", [w.astype(np.float64)], {"to": 1}),
        ("Cast", [w.astype(np.float16)], {"to": 1}),
        ("Reshape", [w.reshape(-1), np.array([4, 3])], {}),
        ("Squeeze", [w[None], np.array([0])], {}),
        ("Mul", [w, np.array(0.5, np.float32)], {}),
        ("DequantizeLinear", [np.arange(-6, 6, dtype=np.int8).reshape(4, 3), np.array(0.5, np.float32)], {}),
    ):
        names = {f"v{i}": np.ascontiguousarray(a) for i, a in enumerate(tensors)}
        producer = node(operator, list(names), ["w"], **attributes)
        yield LayerForm(f"behind {operator} {tensors[0].dtype} {len(attributes)}", (producer, product), names)
        scaled = node("Gemm", ["x", "w", "b"], ["h"], alpha=1.5, beta=0.3)
        yield LayerForm(f"Gemm behind {operator}", (producer, scaled), names | {"b": weights(3, seed=1)})
    bias = (node("Unsqueeze", ["v", "axis"], ["b"]), node("Gemm", ["x", "w", "b"], ["h"]))
    yield LayerForm("bias behind Unsqueeze", bias, {"w": w, "v": weights(3), "axis": np.array([0])})


def _shared() -> Iterator[LayerForm]:
    """Tensors that two nodes read."""
    w, b = weights(4, 4), weights(4, seed=1)
    relu = node("Relu", ["p"], ["q"])
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "MatMul": ("MatMul", {}),
        "Gemm": ("Gemm", {}),
        "Gemm with alpha": ("Gemm", {"alpha": 0.5}),
        "Gemm transposed": ("Gemm", {"transB": 1}),
    }
    for one, (first, how) in kinds.items():
        for two, (second, other) in kinds.items():
            nodes = (node(first, ["x", "w"], ["p"], **how), relu, node(second, ["q", "w"], ["h"], **other))
            yield LayerForm(f"shared by {one} and {two}", nodes, {"w": w})
    for beta in (1.0, 0.5):
        nodes = (node("Gemm", ["x", "w", "b"], ["p"]), relu, node("Gemm", ["q", "v", "b"], ["h"], beta=beta))
        yield LayerForm(f"shared bias, beta {beta}", nodes, {"w": w, "v": weights(4, 4, seed=4), "b": b})
    nodes = (node("Gemm", ["x", "w", "b"], ["p"]), relu, node("Mul", ["q", "b"], ["h"]))
    yield LayerForm("a bias that is a factor too", nodes, {"w": w, "b": b})


def _gemms() -> Iterator[LayerForm]:
    """What stands around a Gemm."""
    w, b = weights(4, 4), weights(4, seed=1)
    for alpha, beta in ((1.0, 1.0), (0.5, 1.0), (0.5, 1.7), (1.0, 2.0), (0.0, 1.0)):
        label, how = f"alpha {alpha}, beta {beta}", {"alpha": alpha, "beta": beta}
        yield LayerForm(f"computed C, {label}", (node("Gemm", ["x", "w", "x"], ["h"], **how),), {"w": w})
        layer, tensors = node("Gemm", ["x", "w", "b"], ["p"], **how), {"w": w, "b": b}
        readers = (layer, node("Relu", ["p"], ["q"]), node("Neg", ["p"], ["m"]), node("Add", ["q", "m"], ["h"]))
        yield LayerForm(f"two readers, {label}", readers, tensors)
        yield LayerForm(f"an Add behind, {label}", (layer, node("Add", ["p", "b"], ["h"])), tensors)
        unbiased = node("Gemm", ["x", "w"], ["p"], alpha=alpha)
        yield LayerForm(f"an Add behind, no C, {label}", (unbiased, node("Add", ["p", "b"], ["h"])), tensors)
        covered = (layer, node("BatchNormalization", ["p", "g", "b2", "m", "v"], ["h"]))
        yield LayerForm(f"BatchNormalization behind, {label}", covered, tensors | _statistics(4))


def _statistics(channels: int) -> dict[str, np.ndarray]:
    drawn = {name: weights(channels, seed=i) for i, name in enumerate(("g", "b2", "m", "v"))}
    return drawn | {"v": np.abs(drawn["v"]) + np.float32(0.5)}


def _convolutions(rank: int) -> Iterator[LayerForm]:
    shape, kernel = ("batch", 2, *(5, 4, 5)[:rank]), (2,) * rank
    w, b, ones = weights(4, 2, *kernel), weights(4, seed=1), (1,) * rank
    ways: list[dict[str, Any]] = [{}, {"group": 2}, {"pads": [1] * 2 * rank}, {"pads": [0] * rank + [1] * rank}]
    ways += [{"auto_pad": "SAME_UPPER"}, {"dilations": [2] * rank}, {"strides": [2] * rank}]
    for how in ways:
        tensors = {"w": w[:, :1] if "group" in how else w}
        label = " ".join(f"{k}={v}" for k, v in how.items())
        yield LayerForm(f"Conv {rank}d {label}", (node("Conv", ["x", "w"], ["h"], **how),), tensors, shape)
        biased = node("Conv", ["x", "w", "b"], ["h"], **how)
        yield LayerForm(f"Conv {rank}d bias {label}", (biased,), tensors | {"b": b}, shape)
    layer = node("Conv", ["x", "w"], ["p"])
    for operator, after in (("Add", (4, *ones)), ("Add", (1, 4, *ones)), ("Add", (1,)), ("Mul", (4, *ones))):
        nodes = (layer, node(operator, ["p", "b"], ["h"]))
        yield LayerForm(f"Conv {rank}d {operator} {after}", nodes, {"w": w, "b": weights(*after)}, shape)
    covered = (layer, node("BatchNormalization", ["p", "g", "b2", "m", "v"], ["h"]))
    yield LayerForm(f"Conv {rank}d BatchNormalization", covered, {"w": w} | _statistics(4), shape)
    twice = (layer, node("Relu", ["p"], ["q"]), node("Conv", ["q", "w"], ["h"]))
    yield LayerForm(f"Conv {rank}d shared", twice, {"w": weights(2, 2, *kernel)}, shape)
    turned = node("Transpose", ["v"], ["w"], perm=[1, 0, *range(2, 2 + rank)])
    behind = node("Conv", ["x", "w"], ["h"])
    yield LayerForm(f"Conv {rank}d behind Transpose", (turned, behind), {"v": weights(2, 4, *kernel)}, shape)
    tensors = {"v": w.reshape(-1), "s": np.array(w.shape)}
    yield LayerForm(f"Conv {rank}d behind Reshape", (node("Reshape", ["v", "s"], ["w"]), behind), tensors, shape)
    tensors = {"v": w.astype(np.float16)}
    yield LayerForm(f"Conv {rank}d behind Cast", (node("Cast", ["v"], ["w"], to=1), behind), tensors, shape)
    for inputs in (["x", "w"], ["x", "w", "b"]):
        tensors = {"w": weights(2, 4, *kernel), "b": b}
        nodes = (node("ConvTranspose", inputs, ["h"]),)
        yield LayerForm(f"ConvTranspose {rank}d {len(inputs)}", nodes, {n: tensors[n] for n in inputs[1:]}, shape)
