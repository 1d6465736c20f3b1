"""Files of any architecture train, with BatchNorm and without: sums, joins, pools, other activations, other classifiers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from pipeline.core.network import Network
from pipeline.data import Loader
from pipeline.train import Finished, Task, recipe, train
from tests.onnx.files import load, model, node, saved, write_back

CLASSES = 3
Nodes = list[onnx.NodeProto]
Constants = dict[str, np.ndarray]


class File:
    """An ONNX graph under construction, from ``x`` of (2, 6, 6); each call appends one node and names its output."""

    def __init__(self) -> None:
        self.nodes: Nodes = []
        self.constants: Constants = {}

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"h{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [out], name=f"{op.lower()}{len(self.nodes)}", **attributes))
        return out

    def constant(self, *shape: int) -> str:
        name = f"w{len(self.constants)}"
        draw = np.random.default_rng(len(self.constants)).standard_normal(shape).astype(np.float32)
        self.constants[name] = (draw / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        return name

    def conv(self, x: str, a: int, b: int, k: int = 3, out: str = "", **attributes: object) -> str:
        pads = [k // 2] * 4
        return self("Conv", x, self.constant(b, a, k, k), self.constant(b), out=out, pads=pads, **attributes)

    def gemm(self, x: str, a: int, b: int, out: str = "") -> str:
        return self("Gemm", x, self.constant(b, a), self.constant(b), out=out, transB=1)

    def finish(self) -> onnx.ModelProto:
        return model(self.nodes, ["batch", 2, 6, 6], self.constants)


def residual(f: File) -> None:
    stem = f("Relu", f.conv("x", 2, 6))
    inner = f.conv(f("Relu", f.conv(stem, 6, 6)), 6, 6)
    f.gemm(f("Flatten", f("Relu", f("Add", inner, stem))), 216, CLASSES, out="y")


def concatenating(f: File) -> None:
    left, right = f("Relu", f.conv("x", 2, 3)), f("Relu", f.conv("x", 2, 3, k=1))
    hidden = f("Relu", f.gemm(f("Flatten", f("Concat", left, right, axis=1)), 216, 12))
    f.gemm(hidden, 12, CLASSES, out="y")


def averaging(f: File) -> None:
    x = f("AveragePool", f("Relu", f.conv("x", 2, 6)), kernel_shape=[2, 2], strides=[2, 2])
    f.gemm(f("Flatten", f("GlobalAveragePool", f("Relu", f.conv(x, 6, 6)))), 6, CLASSES, out="y")


def max_pooling(f: File) -> None:
    x = f("MaxPool", f("Relu", f.conv("x", 2, 6)), kernel_shape=[2, 2], strides=[2, 2])
    f.gemm(f("Flatten", x), 54, CLASSES, out="y")


def convolution_classifies(f: File) -> None:
    x = f("Relu", f.conv("x", 2, 6))
    f("Flatten", f("GlobalAveragePool", f.conv(x, 6, CLASSES, k=1)), out="y")


def matmul_classifies(f: File) -> None:
    x = f("Relu", f("Add", f("MatMul", f("Flatten", "x"), f.constant(72, 12)), f.constant(12)))
    f("MatMul", x, f.constant(12, CLASSES), out="y")


def sum_classifies(f: File) -> None:
    x = f("Flatten", "x")
    f("Add", f.gemm(f("Relu", f.gemm(x, 72, 12)), 12, CLASSES), f.gemm(x, 72, CLASSES), out="y")


def normalised_and_softmax(f: File) -> None:
    f.constants |= {"mean": np.full((1, 2, 1, 1), 0.5, np.float32), "std": np.full((1, 2, 1, 1), 0.25, np.float32)}
    x = f("Div", f("Sub", "x", "mean"), "std")
    f("Softmax", f.gemm(f("Flatten", f("Relu", f.conv(x, 2, 6))), 216, CLASSES), out="y", axis=-1)


def batch_normalised_before(f: File) -> None:
    def bn(x: str, n: int) -> str:
        names = [f.constant(n) for _ in range(4)]
        for name, value in zip(names, (1.0, 0.0, 0.0, 1.0), strict=True):
            f.constants[name] = np.full(n, value, np.float32)
        return f("BatchNormalization", x, *names)

    x = f.conv("x", 2, 6)
    x = f("Add", x, f.conv(f("Relu", bn(x, 6)), 6, 6))
    f.gemm(f("Flatten", f("Relu", bn(x, 6))), 216, CLASSES, out="y")


def activated(op: str, **attributes: object) -> Callable[[File], None]:
    def draw(f: File) -> None:
        x = f(op, f.conv("x", 2, 4), **attributes)
        f.gemm(f(op, f.gemm(f("Flatten", x), 144, 12), **attributes), 12, CLASSES, out="y")

    return draw


FILES: dict[str, Callable[[File], None]] = {
    "residual": residual,
    "concatenating": concatenating,
    "averaging": averaging,
    "max pooling": max_pooling,
    "a convolution classifies": convolution_classifies,
    "a MatMul classifies": matmul_classifies,
    "a sum classifies": sum_classifies,
    "normalised, Softmax": normalised_and_softmax,
    "BatchNorm before activations": batch_normalised_before,
    "Sigmoid": activated("Sigmoid"),
    "Tanh": activated("Tanh"),
    "LeakyRelu": activated("LeakyRelu", alpha=0.1),
    "Elu": activated("Elu"),
    "HardSwish": activated("HardSwish"),
}


def points(n: int = 90) -> tuple[Tensor, Tensor]:
    """Noise about one prototype a class."""
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(n) % CLASSES
    prototypes = (torch.rand(CLASSES, 2, 6, 6, generator=generator) > 0.5).float() * 0.6 + 0.2
    return (prototypes[y] + 0.05 * torch.randn(n, 2, 6, 6, generator=generator)).clamp(0, 1), y


def trained(network: Network, name: str, **settings: object) -> Finished:
    x, y = points()
    short = {"epochs": 4, "warmup_start": 2, "warmup_length": 2, "batch_size": 15, "learning_rate": 5e-3}
    hyperparameters = recipe(name, input_shape=(2, 6, 6), n_train=len(x), **(short | settings))
    *_, last = train(Task(network, Loader(x, y, batch_size=15, seed=0), hyperparameters, Fraction(1, 50), (x, y)))
    assert isinstance(last, Finished)
    return last


RECIPES = ("shi2021", "crown-ibp", "mtl-ibp")
TURNS = [  # `make test` trains each file by one recipe, in turn
    pytest.param(drawn, name, id=f"{drawn}-{name}", marks=[] if i % len(RECIPES) == j else [pytest.mark.slow])
    for i, drawn in enumerate(FILES)
    for j, name in enumerate(RECIPES)
]


@pytest.mark.parametrize(("drawn", "name"), TURNS)
def test_it_trains_and_is_written_back(drawn: str, name: str, tmp_path: Path) -> None:
    f = File()
    FILES[drawn](f)
    path = saved(tmp_path, f.finish())
    last = trained(load(path).network, name)
    assert last.history[-1]["natural"] < last.history[0]["natural"]
    assert last.history[-1]["robust"] < last.history[1]["robust"] + 0.7
    before = onnx.load(path)
    write_back(path, last.network, tmp_path / "out.onnx", metadata={})
    after = onnx.load(tmp_path / "out.onnx")
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    again = load(tmp_path / "out.onnx").network
    x, _ = points()
    assert torch.allclose(again(x), last.network(x), atol=1e-4)
