"""Honest models, of one operator or a few each, for any scale of their constants: none of them may be refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx

from tests.onnx.files import model, node, weights

BN = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])


def _one(op: str, scale: float, *, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    nodes = [node("Mul", ["x", "c"], ["h"]), node(op, ["h"], ["y"], **attributes)]
    return model(nodes, ["n", 4, 9, 9], {"c": np.float32(scale)}, opset=opset, ir=9)


def _positive(nodes: list[onnx.NodeProto], scale: float, **constants: np.ndarray) -> onnx.ModelProto:
    head = [node("Mul", ["x", "c"], ["a"]), node("Abs", ["a"], ["b"]), node("Add", ["b", "c"], ["p"])]
    return model([*head, *nodes], ["n", 4, 9, 9], {"c": np.float32(scale), **constants})


def _norm(scale: float) -> onnx.ModelProto:
    nodes = [
        node("Add", ["x", "off"], ["a"]),
        node("ReduceMean", ["a"], ["m"], axes=[-1]),
        node("Sub", ["a", "m"], ["d"]),
        node("Pow", ["d", "two"], ["q"]),
        node("ReduceMean", ["q"], ["v"], axes=[-1]),
        node("Add", ["v", "eps"], ["e"]),
        node("Sqrt", ["e"], ["s"]),
        node("Div", ["d", "s"], ["y"]),
    ]
    return model(nodes, ["n", 5, 64], {"off": weights(64) * scale, "two": np.float32(2), "eps": np.float32(1e-5)})


SHIFTED = node("Add", ["x", "o"], ["a"])
SCALED = node("Mul", ["x", "c"], ["h"])
ATTENTION = [
    node("MatMul", ["x", "w"], ["q"]),
    node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
    node("MatMul", ["q", "t"], ["s"]),
    node("Softmax", ["s"], ["p"]),
    node("MatMul", ["p", "x"], ["y"]),
]
QUANTIZED = [
    SCALED,
    node("QuantizeLinear", ["h", "qs", "z"], ["q"]),
    node("DequantizeLinear", ["q", "qs", "z"], ["y"]),
]
IMAGE: list[int | str] = ["n", 3, 8, 8]
SEVERAL: dict[str, tuple[list[onnx.NodeProto], list[int | str], Callable[[float], dict[str, Any]]]] = {
    "Conv": (
        [node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)],
        ["n", 64, 9, 9],
        lambda k: {"w": weights(32, 64, 3, 3) * k, "b": weights(32)},
    ),
    "ConvTranspose": (
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        ["n", 8, 6, 6],
        lambda k: {"w": weights(8, 5, 3, 3) * k},
    ),
    "BatchNormalization": (
        [BN],
        IMAGE,
        lambda k: {"s": weights(3), "b": weights(3), "m": weights(3) * k, "v": weights(3) ** 2 + 0.1},
    ),
    "Gemm": (
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=0.3, beta=-1.7)],
        ["n", 512],
        lambda k: {"w": weights(512, 64) * k, "b": weights(64)},
    ),
    "LayerNormalization": (
        [SHIFTED, node("LayerNormalization", ["a", "s", "b"], ["y"])],
        ["n", 5, 64],
        lambda k: {"o": k, "s": weights(64), "b": weights(64)},
    ),
    "InstanceNormalization": (
        [SHIFTED, node("InstanceNormalization", ["a", "s", "b"], ["y"])],
        IMAGE,
        lambda k: {"o": k, "s": weights(3), "b": weights(3)},
    ),
    "Resize": (
        [SCALED, node("Resize", ["h", "", "s"], ["y"], mode="linear")],
        ["n", 3, 33, 33],
        lambda k: {"c": k, "s": [1, 1, 1.7, 0.6]},
    ),
    "attention": (ATTENTION, ["n", 9, 16], lambda k: {"w": weights(16, 16) * k}),
    "QuantizeLinear": (QUANTIZED, ["n", 300], lambda k: {"c": k, "qs": 0.25 * k, "z": np.uint8(120)}),
}


def _several(case: str, scale: float) -> onnx.ModelProto:
    nodes, shape, constants = SEVERAL[case]
    tensors = {
        name: a if isinstance(a, np.generic) else np.asarray(a, np.float32) for name, a in constants(scale).items()
    }
    return model(nodes, shape, tensors)


def _roots(scale: float) -> onnx.ModelProto:
    nodes = [node("Sqrt", ["p"], ["s"]), node("Log", ["p"], ["l"]), node("Add", ["s", "l"], ["y"])]
    return _positive(nodes, scale)


ALONE = (
    *("Sigmoid", "Tanh", "Exp", "Erf", "Softplus", "Elu", "Celu", "Selu", "Softsign", "HardSwish", "HardSigmoid"),
    *("LeakyRelu", "Softmax", "LogSoftmax", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Reciprocal"),
    *("GlobalAveragePool", "Flatten"),
)
HONEST: dict[str, Callable[[float], onnx.ModelProto]] = {
    **{op: partial(_one, op) for op in ALONE},
    "Gelu": partial(_one, "Gelu", opset=20),
    "Gelu by tanh": partial(_one, "Gelu", opset=20, approximate="tanh"),
    "LRN": partial(_one, "LRN", size=3, alpha=0.1),
    "AveragePool": partial(_one, "AveragePool", kernel_shape=[3, 3], pads=[1] * 4),
    "ReduceMean": partial(_one, "ReduceMean", axes=[1, 2]),
    "Sqrt and Log": _roots,
    "Pow": lambda k: _positive([node("Pow", ["p", "e"], ["y"])], k, e=np.float32(1.5)),
    "a LayerNorm in parts": _norm,
    **{case: partial(_several, case) for case in SEVERAL},
}
