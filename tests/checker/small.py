"""Small ONNX files of every operator that the checker reads, of one input number: their minima are found by enumeration."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


class Drawing:
    """A graph under way; ``node`` adds an operator with attributes, ``weight`` a constant of random entries of both signs."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.constant(self.rng.uniform(low, high, shape).astype(np.float32))

    def batchnorm(self, x: str, channels: int) -> str:
        parts = [self.weight(channels) for _ in range(3)]
        return self.node("BatchNormalization", x, *parts, self.weight(channels, low=0.1, high=2.0))

    def model(self, output: str, *shape: int | str) -> bytes:
        entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
        exit_ = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", None])
        graph = helper.make_graph(self.nodes, "g", [entry], [exit_], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return made.SerializeToString()


def drawn(seed: int) -> bytes:
    """From one number to three classes, through three layers of ReLUs, with or without convolutions."""
    d = Drawing(seed)
    x = d.node("Div", d.node("Sub", "x", d.weight(1, 1)), d.weight(1, 1, low=0.3))
    x = d.node("Relu", d.node("Gemm", x, d.weight(12, 1), d.weight(12), transB=1, alpha=1.5))
    if seed % 2:
        x = d.node("Reshape", x, d.constant(np.array([0, 2, 2, 3])))
        x = d.node("Transpose", x, perm=[0, 1, 3, 2])
        y = d.batchnorm(d.node("Conv", x, d.weight(4, 1, 3, 3), group=2, pads=[1, 1, 1, 1]), 4)
        x = d.node("Add", y, d.node("Conv", x, d.weight(4, 2, 1, 1), d.weight(4)))
        x = d.node("Relu", d.node("Mul", x, d.weight(1, 4, 1, 1)))
        x = d.node("AveragePool", x, kernel_shape=[2, 2], pads=[0, 1, 1, 0], count_include_pad=seed // 2 % 2)
        x = d.node("Conv", x, d.weight(6, 4, 2, 1), d.weight(6), strides=[1, 2], dilations=[2, 1])
        x = d.node("Relu", d.node("GlobalAveragePool", x))
        x = d.node("Flatten", x)
    else:
        y = d.node("Relu", d.node("Add", d.weight(12), d.node("MatMul", x, d.weight(12, 12))))
        x = d.node("Sub", y, d.node("Mul", x, d.weight(1)))
        x = d.node("Relu", d.node("Sub", d.weight(6), d.node("Gemm", x, d.weight(12, 6), beta=0.5)))
    return d.model(d.node("Gemm", x, d.weight(6, 3), d.weight(3)), "n", 1)


class Exact:
    """Every value of a file at all points where a ReLU bends between two ends: between them the file is linear."""

    def __init__(self, content: bytes, low: float, high: float):
        model = onnx.ModelProto.FromString(content)
        for tensor in model.graph.initializer:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                numpy_helper.from_array(value.astype(np.float64) if value.dtype == np.float32 else value, tensor.name)
            )
        names = [node.output[0] for node in model.graph.node]
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in names)
        run = ReferenceEvaluator(model).run
        self.points = np.linspace(low, high, 3)
        for node in model.graph.node:
            self.values = dict(zip(names, run(None, {"x": self.points[:, None]}), strict=True))
            if node.op_type == "Relu":
                read = self.values[node.input[0]].reshape(len(self.points), -1)
                before, after, steps = read[:-1], read[1:], np.diff(self.points)[:, None]
                turns = before * after < 0
                met = self.points[:-1, None] + steps * before / np.where(turns, before - after, 1)
                self.points = np.union1d(self.points, met[turns])
        self.values = {
            n: v.reshape(len(self.points), -1)
            for n, v in zip(names, run(None, {"x": self.points[:, None]}), strict=True)
        }
        self.output = self.values[names[-1]]
