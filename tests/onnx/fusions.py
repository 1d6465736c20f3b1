"""Small random graphs of what ONNX Runtime rewrites: each block is one of its fusions, with hard constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SUBNORMAL = 2.0**-130


@dataclass
class Sketch:
    """A graph in the making: the value at its end, with the shape of one sample."""

    rng: np.random.Generator
    opset: int
    shape: tuple[int, ...]
    value: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def number(self) -> np.ndarray:
        """One number of either sign, far from one now and then."""
        power = self.rng.choice([0.0, -1.0, 3.0, 120.0, -120.0], p=[0.4, 0.2, 0.2, 0.1, 0.1])
        value = np.float32(self.rng.choice([-1, 1]) * (1 + self.rng.random()) * 2.0**power)
        return np.asarray(value if self.rng.random() > 0.03 else SUBNORMAL, np.float32)

    def array(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Numbers of both signs, with a zero and a subnormal one among many."""
        values = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        if values.size > 8:
            flat = values.reshape(-1)
            flat[self.rng.integers(values.size)] = 0.0
            flat[self.rng.integers(values.size)] = SUBNORMAL
        return values

    def put(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        output = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), output, name=f"n{len(self.nodes)}", **attributes))
        self.value = output[0]
        return self.value

    def model(self) -> onnx.ModelProto:
        batch = ["batch"]
        size = list(START)
        graph = helper.make_graph(
            self.nodes,
            "fusions",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, batch + size)],
            [helper.make_tensor_value_info(self.value, TensorProto.FLOAT, batch + list(self.shape))],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


START = (3, 6, 6)


def drawn(seed: int, *, pictures: Sequence[Block] | None = None) -> onnx.ModelProto:
    """A random classifier of a picture: some blocks on pictures, then some on vectors."""
    rng = np.random.default_rng(seed)
    s = Sketch(rng, int(rng.choice([9, 11, 13, 15, 17, 18, 21])), START)
    for _ in range(rng.integers(1, 5)):
        rng.choice(PICTURES if pictures is None else list(pictures))(s)  # type: ignore[arg-type]
    before = s.value
    s.put("Flatten", before)
    s.shape = (int(np.prod(s.shape)),)
    for _ in range(rng.integers(0, 3)):
        rng.choice(VECTORS)(s)  # type: ignore[arg-type]
    gemm(s)
    return s.model()


def conv(s: Sketch) -> None:
    """Conv, its padding its own, automatic or a Pad before it; then any of what is folded or fused into it."""
    channels, out, kernel = s.shape[0], int(s.rng.choice([2, 4, 16])), int(s.rng.choice([1, 3]))
    groups = channels if s.rng.random() < 0.2 else 1
    out = channels if groups > 1 else out
    pads = [kernel // 2] * 4
    how = s.rng.choice(["own", "auto", "pad"])
    if how == "pad":
        pad(s, kernel // 2)
    inputs = [s.constant(s.array(out, channels // groups, kernel, kernel))]
    if s.rng.random() < 0.5:
        inputs.append(s.constant(s.array(out)))
    attributes = {"auto_pad": "SAME_UPPER"} if how == "auto" else {"pads": pads if how == "own" else [0] * 4}
    entry = s.value
    s.put("Conv", entry, *inputs, group=groups, **attributes)
    s.shape = (
        (out, *s.shape[1:]) if how != "pad" else (out, s.shape[1] - 2 * (kernel // 2), s.shape[2] - 2 * (kernel // 2))
    )
    for _ in range(s.rng.integers(0, 3)):
        s.rng.choice([norm, scale, shift])(s)  # type: ignore[arg-type]
    if s.rng.random() < 0.3:
        main, s.value = s.value, entry
        s.put("Conv", entry, s.constant(s.array(out, channels, 1, 1)))
        if how != "pad":
            s.put("Add", *((main, s.value) if s.rng.random() < 0.5 else (s.value, main)))
        else:
            s.value = main
    if s.rng.random() < 0.6:
        activation(s)


def pad(s: Sketch, width: int, value: float | None = None) -> None:
    """Pad of the places of a picture, by its attributes or its inputs."""
    pads = [0, 0, width, width, 0, 0, width, width]
    number = float(s.rng.choice([0.0, 0.0, -1.0, 0.5])) if value is None else value
    if s.opset < 11:
        s.put("Pad", s.value, pads=pads, value=number)
    else:
        s.put("Pad", s.value, s.constant(np.asarray(pads, np.int64)), s.constant(np.asarray(number, np.float32)))
    s.shape = (s.shape[0], s.shape[1] + 2 * width, s.shape[2] + 2 * width)


def norm(s: Sketch) -> None:
    """BatchNormalization, its scale and variance of any size."""
    c = s.shape[0]
    gain, shift_, mean = s.array(c), s.array(c), s.array(c, scale=10.0)
    variance = np.abs(s.array(c)) + np.float32(1e-3)
    if s.rng.random() < 0.2:
        gain[0], variance[-1] = SUBNORMAL, np.float32(2.0 ** float(s.rng.choice([-40, 60])))
    names = [s.constant(a) for a in (gain, shift_, mean, variance)]
    s.put("BatchNormalization", s.value, *names, epsilon=float(s.rng.choice([1e-5, 1e-3])))


def scale(s: Sketch) -> None:
    """Mul or Div by one number or one for each channel."""
    one = s.rng.random() < 0.5
    by = s.number() if one else s.array(s.shape[0], *[1] * (len(s.shape) - 1)) + np.float32(0.1)
    if s.rng.random() < 0.3:
        s.put("Div", s.value, s.constant(np.where(by == 0, np.float32(1), by).astype(np.float32)))
    else:
        pair = [s.value, s.constant(by)]
        s.put("Mul", *(pair if s.rng.random() < 0.5 else pair[::-1]))


def shift(s: Sketch) -> None:
    """Add or Sub of a constant."""
    by = s.constant(s.array(s.shape[0], *[1] * (len(s.shape) - 1), scale=5.0))
    s.put(str(s.rng.choice(["Add", "Sub"])), s.value, by)


def activation(s: Sketch) -> None:
    """Relu, Clip, both, LeakyRelu, or copies."""
    kind = s.rng.choice(["relu", "clip", "both", "leaky", "copy"])
    if kind in ("relu", "both"):
        s.put("Relu", s.value)
    if kind in ("clip", "both"):
        ends = [float(s.rng.choice([-1.0, 0.0, 0.25])), float(s.rng.choice([1.0, 6.0]))]
        if s.opset < 11:
            s.put("Clip", s.value, min=ends[0], max=ends[1])
        else:
            s.put("Clip", s.value, *(s.constant(np.asarray(e, np.float32)) for e in ends))
    if kind == "leaky":
        s.put("LeakyRelu", s.value, alpha=float(s.rng.choice([0.01, 0.5, SUBNORMAL])))
    if kind == "copy":
        s.put("Identity", s.value)
        s.put("Mul", s.value, s.constant(np.asarray(1.0, np.float32)))


def pool(s: Sketch) -> None:
    """MaxPool or AveragePool, padded by itself or by a Pad before it, of values of both signs or none below zero."""
    if min(s.shape[1:]) < 2:
        return
    if s.rng.random() < 0.5:
        s.put(str(s.rng.choice(["Relu", "Neg"])), s.value)
    outside = s.rng.random() < 0.5
    if outside:
        pad(s, 1)
    kind, own = str(s.rng.choice(["MaxPool", "AveragePool"])), int(s.rng.choice([0, 1]))
    counted = {"count_include_pad": int(s.rng.choice([0, 1]))} if kind == "AveragePool" else {}
    s.put(kind, s.value, kernel_shape=[2, 2], strides=[2, 2], pads=[own] * 4, **counted)
    s.shape = (s.shape[0], *((d + 2 * own - 2) // 2 + 1 for d in s.shape[1:]))


def turned(s: Sketch) -> None:
    """A transpose to channels last, something elementwise there, and back."""
    s.put("Transpose", s.value, perm=[0, 2, 3, 1])
    s.rng.choice([lambda: s.put("Relu", s.value), lambda: s.put("Add", s.value, s.constant(s.array(s.shape[0])))])()
    s.put("Transpose", s.value, perm=[0, 3, 1, 2])


def cut(s: Sketch) -> None:
    """Channels cut apart by slices, and joined the other way round."""
    if s.opset < 11 or s.shape[0] < 2:
        return
    whole, half = s.value, s.shape[0] // 2
    one, axis = s.constant(np.asarray([1], np.int64)), s.constant(np.asarray([1], np.int64))
    parts = []
    for start, stop in ((0, half), (half, s.shape[0])):
        ends = [s.constant(np.asarray([i], np.int64)) for i in (start, stop)]
        parts.append(s.put("Slice", whole, *ends, axis, one))
    s.put("Concat", parts[1], parts[0], axis=1)


def gemm(s: Sketch) -> None:
    """Gemm with any alpha, beta and transpose; an activation, or a sum, behind it."""
    (size,) = s.shape
    out = 3
    turned_b = int(s.rng.integers(2))
    weight = s.array(*((out, size) if turned_b else (size, out)))
    inputs = [s.value, s.constant(weight), s.constant(s.array(*((out,) if s.rng.random() < 0.5 else (1, out))))]
    settings = {"alpha": float(s.number()), "beta": float(s.number())} if s.rng.random() < 0.4 else {}
    s.put("Gemm", *inputs, transB=turned_b, **settings)
    s.shape = (out,)
    if s.rng.random() < 0.4:
        activation(s)


def matmul(s: Sketch) -> None:
    """Numbers multiplied in before and behind a MatMul, with or without an Add and a BatchNormalization behind it."""
    (size,) = s.shape
    for _ in range(s.rng.integers(0, 3)):
        s.put(str(s.rng.choice(["Mul", "Div"])), s.value, s.constant(s.number()))
    s.put("MatMul", s.value, s.constant(s.array(size, 4)))
    s.shape = (4,)
    for _ in range(s.rng.integers(0, 3)):
        s.rng.choice([norm, scale, shift])(s)  # type: ignore[arg-type]
    if s.rng.random() < 0.5:
        activation(s)


Block = Callable[[Sketch], None]
PICTURES: list[Block] = [conv, conv, conv, pool, pool, norm, scale, turned, cut, activation]
VECTORS: list[Block] = [gemm, matmul, matmul]
