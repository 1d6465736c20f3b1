"""Small graphs drawn at random in which samples of a batch may influence each other, in every way that operators offer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAST = np.iinfo(np.int64).max


class Game:
    """One graph under construction: ``value`` is its latest, ``rank`` how many axes that has."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.shape: list[Any] = [["N", 4], ["N", 3, 4], ["N", 2, 4, 4]][self.rng.integers(3)]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.value, self.rank, self.sizes = "x", len(self.shape), [2, *self.shape[1:]]
        for _ in range(int(self.rng.integers(1, 4))):
            moves = [m for m in MOVES if getattr(m, "needs", 1) <= self.rank]
            moves[self.rng.integers(len(moves))](self)

    def model(self, *, complete: bool = True) -> onnx.ModelProto:
        nodes = [*self.nodes, helper.make_node("Identity", [self.value], ["y"])]
        graph = helper.make_graph(
            nodes,
            "game",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * self.rank if complete else None)],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        output = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), output, **attributes))
        return output[0]

    def step(self, op_type: str, *others: str, outputs: int = 1, **attributes: Any) -> None:
        """The latest value through an operator."""
        self.value = self.node(op_type, self.value, *others, outputs=outputs, **attributes)
        self._measure()

    def axis(self) -> int:
        return int(self.rng.integers(-self.rank, self.rank))

    def weights(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def batch_size(self) -> str:
        """A number computed from that of the samples: the size itself, or what some function makes of it."""
        size = self.node("Gather", self.node("Shape", "x"), self.constant(0, np.int64), axis=0)
        other = self.constant(self.pick(1, 2, 3, 7, 8), np.int64)
        kind = self.pick("size", "Mul", "Div", "Mod", "Min", "Equal", "Greater", "Sub", "clipped")
        if kind == "size":
            return size
        if kind == "clipped":
            return self.node("Clip", size, self.constant(0, np.int64), self.constant(3, np.int64))
        output = self.node(kind, size, other)
        return self.node("Cast", output, to=TensorProto.INT64) if kind in ("Equal", "Greater") else output

    def _measure(self) -> None:
        """The shape at two samples, where it can be inferred; else that of before, and the runtime refuses what does not fit."""
        inferred = onnx.shape_inference.infer_shapes(self.model(complete=False), data_prop=True)
        info = next((o for o in [*inferred.graph.value_info, *inferred.graph.output] if o.name == self.value), None)
        if info is not None and info.type.tensor_type.HasField("shape"):
            self.sizes = [d.dim_value or 2 for d in info.type.tensor_type.shape.dim]
            self.rank = max(1, len(self.sizes))


def along(g: Game) -> None:
    op_type = g.pick("Softmax", "LogSoftmax", "LayerNormalization", "CumSum", "TopK")
    if op_type == "CumSum":
        g.step("CumSum", g.constant(g.axis(), np.int64))
    elif op_type == "LayerNormalization":
        axis = g.axis()
        g.step("LayerNormalization", g.constant(np.ones(g.sizes[axis:])), axis=axis)
    elif op_type == "TopK":
        g.step("TopK", g.ints(1), axis=g.axis(), outputs=2)
    else:
        g.step(op_type, axis=g.axis())


def reduce(g: Game) -> None:
    op_type, keep = g.pick("ReduceMax", "ReduceMean", "ReduceSum", "ReduceMin", "ArgMax"), int(g.rng.integers(2))
    if op_type == "ArgMax":
        g.step("ArgMax", axis=g.axis(), keepdims=keep)
        g.step("Cast", to=TensorProto.FLOAT)
    elif op_type == "ReduceSum":
        g.step(op_type, g.ints(g.axis()), keepdims=keep)
    else:
        g.step(op_type, axes=[g.axis()], keepdims=keep)


def centred(g: Game) -> None:
    """The value less its mean or maximum along some axis."""
    x = g.value
    g.value = g.node("Sub", x, g.node(g.pick("ReduceMax", "ReduceMean"), x, axes=[g.axis()], keepdims=1))
    g._measure()


def cut(g: Game) -> None:
    start, end, step = g.pick((0, LAST, 1), (-1, -LAST, -1), (0, 2, 1), (1, LAST, 1), (0, -1, 1), (0, LAST, 2))
    g.step("Slice", g.ints(start), g.ints(end), g.ints(g.axis()), g.ints(step))


def cut_by_size(g: Game) -> None:
    size = g.node("Unsqueeze", g.batch_size(), g.ints(0))
    g.step("Slice", g.ints(0), size, g.ints(g.axis()), g.ints(1))


def gather(g: Game) -> None:
    g.step("Gather", g.constant(g.pick(0, [0], [1, 0], [[0, 1]], [0, -1]), np.int64), axis=g.axis())


def split(g: Game) -> None:
    g.step("Split", axis=g.axis(), outputs=2)


def join(g: Game) -> None:
    other = g.pick(g.value, g.value, g.constant(g.weights(*g.sizes)))
    g.step("Concat", other, axis=g.axis())


def transpose(g: Game) -> None:
    g.step("Transpose", perm=g.rng.permutation(g.rank).tolist())


def back_and_forth(g: Game) -> None:
    """Something done with the axes moved about, and moved back."""
    perm = g.rng.permutation(g.rank).tolist()
    g.step("Transpose", perm=perm)
    g.pick(along, centred, cut, scale)(g)
    g.step("Transpose", perm=np.argsort(perm).tolist())


def reshape(g: Game) -> None:
    whole = int(np.prod(g.sizes[1:])) if len(g.sizes) > 1 else 1
    g.step(
        "Reshape", g.ints(*g.pick((0, -1), (-1, whole), (-1, 2), (2, -1), (1, -1), (0, 2, -1), (-1,), (-1, 1, whole)))
    )


def reshape_by_size(g: Game) -> None:
    size = g.node("Unsqueeze", g.batch_size(), g.ints(0))
    parts = g.pick((size, g.ints(-1)), (g.ints(-1), size), (size, g.ints(2), g.ints(-1)), (g.ints(1), size, g.ints(-1)))
    g.step("Reshape", g.node("Concat", *parts, axis=0))


def flatten(g: Game) -> None:
    g.step("Flatten", axis=int(g.rng.integers(-g.rank, g.rank + 1)))


def unsqueeze(g: Game) -> None:
    g.step("Unsqueeze", g.ints(int(g.rng.integers(-g.rank - 1, g.rank + 1))))


def squeeze(g: Game) -> None:
    axis = int(g.rng.integers(-g.rank - 1, g.rank + 1))
    g.step("Unsqueeze", g.ints(axis))
    g.step("Squeeze", *g.pick((), (g.ints(axis),)))


def conv(g: Game) -> None:
    """Over whatever axis stands where channels, or rows, should."""
    channels = g.sizes[1]
    kernel = [g.pick(1, 1, 2)] + [1] * (g.rank - 3)
    g.step("Conv", g.constant(g.weights(3, channels, *kernel)))


def pool(g: Game) -> None:
    g.step(g.pick("MaxPool", "AveragePool"), kernel_shape=[2] + [1] * (g.rank - 3))


def channels_of_batch(g: Game) -> None:
    g.step("Unsqueeze", g.ints(0))
    g.pick(conv, pool)(g) if g.rank > 2 else None
    g.step("Squeeze", g.ints(0))


def matmul(g: Game) -> None:
    kind = g.pick("right", "left", "self", "turned")
    if kind == "right":
        g.step("MatMul", g.constant(g.weights(g.sizes[-1], 3)))
    elif kind == "left":
        rows = g.sizes[-2] if g.rank > 1 else g.sizes[0]
        g.value = g.node("MatMul", g.constant(g.weights(2, rows)), g.value)
        g._measure()
    else:
        perm = [*range(g.rank - 2), g.rank - 1, g.rank - 2]
        other = g.node("Transpose", g.value, perm=perm)
        g.value = g.node("MatMul", *([g.value, other] if kind == "self" else [other, g.value]))
        g._measure()


def gemm(g: Game) -> None:
    a, b = int(g.rng.integers(2)), int(g.rng.integers(2))
    inner = g.sizes[0] if a else g.sizes[-1]
    bias = g.pick((), (g.constant(g.weights(3)),), (g.constant(g.weights(2, 3)),), (g.constant(g.weights(2, 1)),))
    g.step("Gemm", g.constant(g.weights(3, inner) if b else g.weights(inner, 3)), *bias, transA=a, transB=b)


def einsum(g: Game) -> None:
    if any(n.op_type == "Squeeze" and len(n.input) == 1 for n in g.nodes):
        return  # an Einsum of more labels than its operand has axes ends the runtime's process, where ranks are not known before
    labels = "abcd"[: g.rank]
    kind = g.pick(f"{labels},{labels[-1]}z->{labels[:-1]}z", f"{labels},{labels[0]}z->{labels[1:]}z")
    g.step("Einsum", g.constant(g.weights(g.sizes[-1] if kind.endswith(labels[:-1] + "z") else 2, 3)), equation=kind)


def add(g: Game) -> None:
    shape = g.pick(
        (1,), (2, *[1] * (g.rank - 1)), tuple(g.sizes), tuple(g.sizes[1:]), (g.sizes[-1],), (1, *g.sizes[1:])
    )
    g.step(g.pick("Add", "Mul", "Sub", "Max"), g.constant(g.weights(*shape)))


def scale(g: Game) -> None:
    g.step(g.pick("Relu", "Tanh", "Neg", "Abs"))


def by_size(g: Game) -> None:
    """Data with a number that depends on the batch size."""
    number = g.node("Cast", g.batch_size(), to=TensorProto.FLOAT)
    g.step(g.pick("Add", "Mul", "Div"), number)


def beside(g: Game) -> None:
    """Two axes' values added: of the value and of itself turned about."""
    perm = [1, 0, *range(2, g.rank)]
    g.value = g.node(g.pick("Add", "Mul", "Max"), g.value, g.node("Transpose", g.value, perm=perm))
    g._measure()


def pad(g: Game) -> None:
    pads = [0] * (2 * g.rank)
    pads[g.rng.integers(len(pads))] = 1
    g.step("Pad", g.ints(*pads), g.constant(0.5))


def tile(g: Game) -> None:
    repeats = [1] * g.rank
    repeats[g.rng.integers(g.rank)] = g.pick(1, 2)
    g.step("Tile", g.ints(*repeats))


def expand(g: Game) -> None:
    g.step("Expand", g.ints(*g.pick(g.sizes, [1, *g.sizes[1:]], [2, *[1] * g.rank], [1] * g.rank)))


def token(g: Game) -> None:
    """A row of numbers for each sample, as class tokens are."""
    size = g.node("Unsqueeze", g.batch_size(), g.ints(0))
    rest = g.sizes[1:]
    target = g.node("Concat", size, g.ints(*rest), axis=0) if rest else size
    row = g.node("Expand", g.constant(g.weights(1, *rest)), target)
    if g.pick(True, False):
        row = g.node("ConstantOfShape", target)
    if g.pick(True, False):
        g.value = g.node("Concat", row, g.value, axis=g.axis())
        g._measure()
    else:
        g.step(g.pick("Add", "Mul"), row)


def numbered(g: Game) -> None:
    """The number of each sample in its batch, added to it."""
    count = g.node("Range", g.constant(0, np.int64), g.batch_size(), g.constant(1, np.int64))
    column = g.node("Reshape", g.node("Cast", count, to=TensorProto.FLOAT), g.ints(-1, *[1] * (g.rank - 1)))
    g.step("Add", column)


def resize(g: Game) -> None:
    scales = [1.0] * g.rank
    scales[g.rng.integers(g.rank)] = 2.0
    g.step("Resize", "", g.constant(scales), mode="nearest")


MOVES = [
    *(
        along,
        reduce,
        centred,
        cut,
        cut_by_size,
        gather,
        split,
        join,
        transpose,
        back_and_forth,
        reshape,
        reshape_by_size,
    ),
    *(flatten, unsqueeze, squeeze, conv, pool, channels_of_batch, matmul, gemm, einsum, add, scale, by_size, beside),
    *(pad, tile, expand, token, numbered, resize),
]
for _move, _rank in (
    (conv, 3),
    (pool, 3),
    (channels_of_batch, 2),
    (matmul, 2),
    (gemm, 2),
    (beside, 2),
    (back_and_forth, 2),
):
    _move.needs = _rank
