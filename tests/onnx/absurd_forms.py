"""One node with a number or a text in it that no network has: what a runtime may abort, divide by zero or hang on."""

# ruff: noqa: E501 (a form is one line)
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx.files import weights

WHOLE = (0, -1, -2, 1, 7, 100, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**62), 2**63 - 1, -(2**63))
REAL = (0.0, -1.0, 1e-30, 1e30, 1e9, -0.5)
EQUATIONS = (
    *("ij->i", "ijk->i", "abcdefgh->a", "i,j->ij", "ij,jk->ik", "ij,jkl->il", "ii->i", "i...->i", "...i->i", "", "->"),
    *("ij->", "ij->ijk", "ij->kk", "ij,->i", "i j->i", "ij->ii", "ij,ij,ij->i", "....->i", "i..j->i", ",", "ij,jk"),
    "ijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ->i",
)
ROW: tuple[Any, ...] = ("batch", 4)
IMAGE: tuple[Any, ...] = ("batch", 2, 4, 4)
X = "x"


@dataclass(frozen=True)
class Absurd:
    """``name`` says what; ``model`` may be no model at all."""

    name: str
    model: onnx.ModelProto


def one(
    operator: str, shape: Sequence[Any], operands: Sequence[Any], opset: int = 17, outputs: int = 1, **attributes: Any
) -> Absurd:
    """The node over ``x``, constants and left-out operands, and the mean of what it makes as the only output."""
    names = ["x" if o is X else "" if o is None else f"c{i}" for i, o in enumerate(operands)]
    tensors = {f"c{i}": np.asarray(o) for i, o in enumerate(operands) if o is not None and o is not X}
    nodes = [
        helper.make_node(operator, names, ["v", *(f"o{i}" for i in range(1, outputs))], **attributes),
        helper.make_node("Cast", ["v"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["number"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "absurd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    text = ", ".join(str(o.tolist() if isinstance(o, np.ndarray) and o.size < 9 else o) for o in operands)
    label = f"{operator}-{opset} {list(shape)} {text[:80]} {attributes}"
    return Absurd(label, helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


w = weights
Form = Callable[[int], Absurd]
BY_NUMBER: list[Form] = [
    *(
        (lambda v, op=op, name=name, n=n: one(op, IMAGE, [X, *([w(2, 2, 2, 2)] if "Conv" in op else [])], **({"kernel_shape": [2, 2]} | {name: [v] * n})))
        for op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
        for name, n in (("kernel_shape", 2), ("strides", 2), ("dilations", 2), ("pads", 4), ("strides", 1), ("pads", 3))
    ),
    *((lambda v, op=op: one(op, IMAGE, [X, w(2, 2, 2, 2)], group=v)) for op in ("Conv", "ConvTranspose")),
    lambda v: one("ConvTranspose", IMAGE, [X, w(2, 2, 2, 2)], output_padding=[v, v]),
    lambda v: one("ConvTranspose", IMAGE, [X, w(2, 2, 2, 2)], output_shape=[v, v]),
    *((lambda v, op=op: one(op, IMAGE, [X], kernel_shape=[2, 2], **{"LpPool": {"p": v}}.get(op, {"ceil_mode": v}))) for op in ("LpPool", "MaxPool")),
    lambda v: one("Reshape", ROW, [X, whole(0, v)]),
    lambda v: one("Reshape", ROW, [X, whole(v, -1)]),
    lambda v: one("Reshape", ROW, [X, whole(v, v, v)]),
    lambda v: one("Reshape", ROW, [w(0), whole(v, 0)], allowzero=1),
    lambda v: one("Expand", ROW, [X, whole(v, v, 1, 1)]),
    lambda v: one("Expand", ROW, [w(1), whole(v)]),
    lambda v: one("Tile", ROW, [X, whole(1, v)]),
    lambda v: one("Tile", ROW, [w(2, 2), whole(v, v)]),
    lambda v: one("ConstantOfShape", ROW, [whole(v, v)]),
    lambda v: one("Range", ROW, [np.int64(0), np.int64(v), np.int64(1)]),
    lambda v: one("Range", ROW, [np.int64(0), np.int64(10), np.int64(v)]),
    *((lambda v, mode=mode: one("Pad", IMAGE, [X, whole(0, 0, v, v, 0, 0, v, v)], 19, mode=mode)) for mode in ("constant", "reflect", "edge", "wrap")),
    lambda v: one("Pad", IMAGE, [X, whole(1, 1), None, whole(v)], 19),
    lambda v: one("Pad", IMAGE, [X], 10, pads=[0, 0, v, 0, 0, 0, 0, 0]),
    *((lambda v, op=op, opset=opset: one(op, ROW, [X], opset, axis=v)) for op in ("Softmax", "LogSoftmax", "Hardmax", "Flatten", "Concat", "LpNormalization", "ArgMax") for opset in (11, 13)),
    lambda v: one("LayerNormalization", ROW, [X, w(4)], axis=v),
    lambda v: one("Gather", ROW, [X, whole(0)], axis=v),
    lambda v: one("Gather", ROW, [X, whole(v)], axis=1),
    lambda v: one("GatherElements", ROW, [X, whole(v).reshape(1, 1)], axis=1),
    lambda v: one("GatherND", ROW, [X, whole(v).reshape(1, 1)]),
    lambda v: one("GatherND", ROW, [X, whole(0).reshape(1, 1)], batch_dims=v),
    lambda v: one("Unsqueeze", ROW, [X, whole(v)]),
    lambda v: one("Squeeze", ("batch", 1, 4), [X, whole(v)]),
    lambda v: one("Transpose", ROW, [X], perm=[0, v]),
    lambda v: one("Slice", ROW, [X, whole(v), whole(4), whole(1), whole(1)]),
    lambda v: one("Slice", ROW, [X, whole(0), whole(v), whole(1), whole(1)]),
    lambda v: one("Slice", ROW, [X, whole(0), whole(2), whole(v), whole(1)]),
    lambda v: one("Slice", ROW, [X, whole(-1), whole(-(2**63)), whole(1), whole(v)]),
    lambda v: one("Slice", ROW, [X], 9, starts=[v], ends=[v], axes=[1]),
    lambda v: one("Split", ROW, [X, whole(v, 4)], outputs=2, axis=1),
    lambda v: one("Split", ROW, [X], 18, 2, axis=1, num_outputs=v),
    *((lambda v, op=op: one(op, ROW, [X, whole(v)], 18)) for op in ("ReduceSum", "ReduceMax", "ReduceLogSumExp")),
    lambda v: one("ReduceMean", ROW, [X], 11, axes=[v, v]),
    lambda v: one("TopK", ROW, [X, whole(v)], outputs=2),
    lambda v: one("TopK", ROW, [X, whole(1)], outputs=2, axis=v),
    lambda v: one("DepthToSpace", ("batch", 4, 2, 2), [X], blocksize=v),
    lambda v: one("SpaceToDepth", IMAGE, [X], blocksize=v),
    lambda v: one("OneHot", ROW, [whole(1, 2), np.int64(v), w(2)]),
    lambda v: one("CumSum", ROW, [X, np.int64(v)]),
    lambda v: one("Trilu", ROW, [X, np.int64(v)]),
    lambda v: one("EyeLike", ROW, [w(4, 4)], k=v),
    lambda v: one("LRN", IMAGE, [X], size=v),
    lambda v: one("Shape", ROW, [X], start=v),
    lambda v: one("GroupNormalization", IMAGE, [X, w(2), w(2)], 21, num_groups=v),
    lambda v: one("ReverseSequence", ROW, [w(4, 4), whole(v, v, v, v)], batch_axis=0, time_axis=1),
    lambda v: one("ScatterElements", ROW, [X, whole(v).reshape(1, 1), w(1, 1)], axis=1),
    lambda v: one("ScatterND", ROW, [w(4, 4), whole(v).reshape(1, 1), w(1, 4)]),
    lambda v: one("QuantizeLinear", ROW, [X, w(4) ** 2 + 1, np.zeros(4, np.uint8)], axis=v),
    lambda v: one("DequantizeLinear", ROW, [np.zeros((4, 4), np.uint8), w(4, 4) ** 2 + 1], 21, axis=1, block_size=v),
    *((lambda v, op=op, n=n: one(op, ROW, [whole(n), whole(v)])) for op in ("Div", "Mod") for n in (5, -(2**63))),
    lambda v: one("Resize", IMAGE, [X, None, None, whole(1, 2, v, v)]),
    lambda v: one("Resize", IMAGE, [X, None, None, whole(8)], 18, axes=[v]),
    lambda v: one("CenterCropPad", IMAGE, [X, whole(v, v)], 18, axes=[2, 3]),
    lambda v: one("MaxUnpool", ROW, [w(1, 1, 2, 2), whole(v, v, v, v).reshape(1, 1, 2, 2)], kernel_shape=[2, 2], strides=[2, 2]),
    lambda v: one("LSTM", ("batch", 1, 4), [X, w(1, 8, 4), w(1, 8, 2)], hidden_size=v),
]  # fmt: skip


def numbers() -> Iterator[Absurd]:
    for form in BY_NUMBER:
        yield from map(form, WHOLE)
    for v in REAL:
        scales = np.array([1, 1, v, v], np.float32)
        for mode in ("nearest", "linear", "cubic"):
            for where in ("half_pixel", "align_corners", "asymmetric"):
                yield one("Resize", IMAGE, [X, None, scales], mode=mode, coordinate_transformation_mode=where)
            yield one("Resize", IMAGE, [X, None, scales], 18, mode=mode, antialias=1)
            yield one("Upsample", IMAGE, [X, scales], 9, mode=mode)
        yield one("Range", ROW, [np.float32(0), np.float32(v), np.float32(1)])
        yield one("Range", ROW, [np.float32(0), np.float32(1), np.float32(v)])


def equations() -> Iterator[Absurd]:
    for equation in EQUATIONS:
        for operands in ([X], [X, w(4, 4)], [w(4, 4), w(4, 4)]):
            yield one("Einsum", ROW, operands, equation=equation)


def shapes() -> Iterator[Absurd]:
    """Operands of other ranks than the operator has, or of no entry."""
    kinds: list[tuple[str, list[Any]]] = [
        *(("Gemm", [X, w(4)]), ("MatMul", [X, w(1)]), ("MatMul", [X, np.float32(1)]), ("Conv", [X, w(2)])),
        *(("Conv", [X, w(0, 2, 2, 2)]), ("BatchNormalization", [X, w(3), w(4), w(4), w(4)]), ("PRelu", [X, w(3)])),
        *(
            ("Where", [np.array([True]), X, w(3)]),
            ("Concat", [X, w(0)]),
            ("Softmax", [w(0)]),
            ("TopK", [w(0), whole(1)]),
        ),
        *(("ArgMax", [w(0)]), ("ReduceMax", [w(0)]), ("MaxPool", [w(0)]), ("Reshape", [X, np.zeros((2, 2), np.int64)])),
        *(("Tile", [X, np.zeros((2, 2), np.int64)]), ("ConstantOfShape", [np.zeros((2, 2), np.int64)])),
        *(("Pad", [X, np.zeros((2, 2), np.int64)]), ("Resize", [X]), ("Clip", [X, w(3)]), ("Sum", []), ("Concat", [])),
        *(
            ("Identity", []),
            ("MatMul", [X]),
            ("Conv", [X]),
            ("Gemm", [X]),
            ("Where", [X]),
            ("Cast", [X]),
            ("Einsum", []),
        ),
    ]
    needed = {
        "Concat": {"axis": 0},
        "Cast": {"to": 1},
        "Einsum": {"equation": "i->i"},
        "MaxPool": {"kernel_shape": [2, 2]},
    }
    for operator, operands in kinds:
        for shape in (ROW, IMAGE, ("batch",), (), (4,)):
            for opset in (11, 17, 21):
                yield one(operator, shape, operands, opset, **needed.get(operator, {}))
