"""What the inputs of each operator are tried with: ``x``, something made of it, constants of every fitting shape, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Operand = np.ndarray | str | None
"""A constant, ``x`` or something made of it, or an input that is left out."""
Constants = list[onnx.TensorProto]
Shape = Sequence[int | str]

SIZES = (4, 7, 5, 6)
"""Behind the batch, which is 2 or 3; the channels can be grouped by two."""
BLOCKS = (4, 6, 8)
"""Of an operator that takes blocks of two by two."""
IMAGES, FLAT = range(3, 6), range(2, 3)
RANKS: Mapping[str, range] = {
    **dict.fromkeys(
        ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "InstanceNormalization", "GroupNormalization"), IMAGES
    ),
    **dict.fromkeys(("SpaceToDepth", "DepthToSpace"), range(4, 5)),
    **{"Gemm": FLAT, "BatchNormalization": range(2, 6), "LRN": range(2, 6), "Einsum": range(2, 4)},
}


def _made(op_type: str, name: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(op_type, ["x"], [name], **attributes)]


def _truth(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    constants.append(numpy_helper.from_array(np.float32(0.1), "threshold"))
    return [helper.make_node("Greater", ["x", "threshold"], [name])]


def _turned(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    return _made("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2] if rank > 1 else [0])


def _whole(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    constants += [numpy_helper.from_array(np.float32(0.05), "grid"), numpy_helper.from_array(np.uint8(3), "zero")]
    return [helper.make_node("QuantizeLinear", ["x", "grid", "zero"], [name])]


OPERANDS: Mapping[str, Callable[[str, int, Constants], list[onnx.NodeProto]]] = {
    "neg": lambda name, rank, constants: _made("Neg", name),
    "bool": _truth,
    "turned": _turned,
    "uint8": _whole,
}
"""What is made of ``x``: minus it, whether it exceeds a number, its last two axes exchanged, whole numbers."""


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Numbers of both signs, all different."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def alternatives(operator: str, opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    """The operands of an operator at an opset, for an input of a shape and attributes; none where nothing fits."""
    if operator in _PAIRS:
        yield from _pairs(operator, shape)
    elif operator.startswith("Reduce"):
        yield from _reductions(operator, opset, shape)
    elif operator in _OWN:
        yield from _OWN[operator](opset, shape, settings)
    else:
        yield ["x"]


_PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "And", "Or",
          "PRelu", "Sum", "Min", "Max")  # fmt: skip


def _sizes(shape: Shape) -> list[int]:
    return [int(d) if d != "batch" else 1 for d in shape]


def _pairs(operator: str, shape: Shape) -> Iterator[Sequence[Operand]]:
    own = _sizes(shape)
    fitting = [[], [1], own[-1:], [1, *own[1:]], [*own[1:2], *[1] * (len(own) - 2)], [2, *([1] * len(own))]]
    others: list[Operand] = [drawn(*s, seed=len(s)) for s in fitting if len(own) > 1 or len(s) <= 1]
    if operator in ("And", "Or"):
        others = [np.asarray(np.asarray(o) > 0) for o in others]
        yield from ([one, other] for other in ("bool", *others) for one in ("bool",))
        return
    if operator == "Pow":
        others += [np.asarray(p, np.float32) for p in (0, 1, 2, 3, 0.5, -1)]
    for other in others:
        yield ["x", np.asarray(other)]
    if operator == "PRelu":
        return
    yield ["x", "neg"]
    yield from ([np.asarray(other), "x"] for other in others[:4])
    if operator in ("Sum", "Min", "Max"):
        yield from (["x"], ["x", "neg", np.asarray(others[0])])


def _reductions(operator: str, opset: int, shape: Shape) -> Iterator[Sequence[Operand]]:
    yield ["x"]
    if opset >= (13 if operator == "ReduceSum" else 18):
        rank = len(shape)
        yield from (["x", i64(a)] for a in range(-rank, rank))
        yield from (["x", i64(*range(1, rank))], ["x", np.zeros(0, np.int64)], ["x", i64(-1, 0)])


def _axes(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    """Squeeze and Unsqueeze: an attribute until opset 12."""
    yield ["x"]
    if opset >= 13:
        rank = len(shape)
        yield from (["x", i64(a)] for a in range(-rank - 1, rank + 1))
        yield from (["x", i64(1, 2)], ["x", i64(-1, 1)], ["x", i64(2, 0)], ["x", i64(1, 3)])


def _clip(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    yield ["x"]
    if opset >= 11:
        low, high = np.array(-0.4, np.float32), np.array(0.7, np.float32)
        yield from (
            ["x", low, high],
            ["x", low],
            ["x", None, high],
            ["x", np.array(0, np.float32), np.array(6, np.float32)],
            ["x", high, low],
        )


def _product(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    own = _sizes(shape)
    yield ["x", drawn(own[-1], 8)]
    yield from (
        ["x", drawn(own[-1])],
        ["x", drawn(1, own[-1], 8)],
        ["x", drawn(2, own[-1], 8)],
        ["x", "turned"],
        ["turned", "x"],
    )
    if len(own) > 1:
        yield from ([drawn(8, own[-2]), "x"], [drawn(own[-2]), "x"], [drawn(8, own[-1]), "turned"])


def _gemm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    rows, inner = _sizes(shape)[:: -1 if settings.get("transA") else 1]
    weight = drawn(8, inner) if settings.get("transB") else drawn(inner, 8)
    biases: list[Operand] = [
        drawn(8, seed=1),
        None,
        drawn(1, seed=1),
        drawn(1, 8, seed=1),
        drawn(rows, 1, seed=1),
        drawn(seed=1),
    ]
    yield from (["x", weight, bias] for bias in biases)
    yield from ([drawn(8, _sizes(shape)[0]), "x"], ["turned", "x"], ["x", "turned"])
    yield ["x", weight, "x"]


def _conv(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    kernel = list(settings.get("kernel_shape", [3, 2, 2][: len(shape) - 2]))
    weight = drawn(6 if settings.get("group") != 4 else 8, _sizes(shape)[1] // settings.get("group", 1), *kernel)
    yield from (["x", weight, drawn(len(weight), seed=1)], ["x", weight])


def _conv_transpose(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    kernel = list(settings.get("kernel_shape", [3, 2, 2][: len(shape) - 2]))
    weight = drawn(_sizes(shape)[1], 3, *kernel)
    yield from (["x", weight, drawn(3 * settings.get("group", 1), seed=1)], ["x", weight])


def _batch_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    width = _sizes(shape)[1:] if settings.get("spatial", 1) == 0 else _sizes(shape)[1:2]
    scale, shift, mean = (drawn(*width, seed=s) for s in range(3))
    yield ["x", scale, shift, mean, np.abs(drawn(*width, seed=3)) + 0.1]


def _layer_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    own = _sizes(shape)[settings.get("axis", -1) :]
    yield from (["x", drawn(*own), drawn(*own, seed=1)], ["x", drawn(*own)])


def _instance_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    width = _sizes(shape)[1]
    yield ["x", drawn(width), drawn(width, seed=1)]


def _group_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    width = _sizes(shape)[1] if opset >= 21 else int(settings["num_groups"])
    yield ["x", drawn(width), drawn(width, seed=1)]


def _root_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    own = _sizes(shape)[settings.get("axis", -1) :]
    yield from (["x", drawn(*own)], ["x", drawn(1)])


def _reshape(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    own, rank = _sizes(shape), len(shape)
    rest = int(np.prod(own[1:]))
    yield from (
        ["x", i64(*t)] for t in ([0, -1], [-1, rest], [-1], [0, rest], [0, 2, -1], [2, -1], [-1, *own[1:]][:rank])
    )
    yield from (
        ["x", i64(*t)] for t in ([-1, own[-1]], [0] * rank, [1, -1], [0, *own[:0:-1]], [0, 1, *own[1:]], [*own])
    )


def _slice(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    if opset < 10:
        yield ["x"]
        return
    far = 2**62
    yield from (["x", i64(1), i64(3), i64(axis)] for axis in range(-len(shape), len(shape)))
    yield from (
        ["x", i64(a), i64(b), i64(-1), i64(s)]
        for a, b, s in ((0, far, 2), (-1, -far, -1), (4, 0, -2), (-3, -1, 1), (1, far, 3))
    )
    yield from (
        ["x", i64(1), i64(2)],
        ["x", i64(0, 1), i64(far, 3)],
        ["x", i64(0, 1), i64(1, -1), i64(0, -1), i64(1, 1)],
    )


def _split(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    yield ["x"]
    if opset >= 13:
        yield from (["x", i64(*sizes)] for sizes in ((1, 3), (3, 4), (4, 1), (1, 1, 2), (3, 3), (2, 1)))


def _pad(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    rank = len(shape)
    if opset < 11:
        yield ["x"]
        return
    value = np.array(0.7, np.float32)
    inside = [0, 0, 1, 2, 1][:rank] + [0, 0, 2, 0, 1][:rank]
    yield from (["x", i64(*inside)], ["x", i64(*inside), value], ["x", i64(*[-p for p in inside]), value])
    yield from (["x", i64(*[0, 1, 0, 0, 0][:rank], *[0, 2, 0, 0, 1][:rank]), value], ["x", i64(*[1] * 2 * rank), value])
    if opset >= 18:
        yield from (["x", i64(1, 2), value, i64(a)] for a in range(-rank, rank))
        yield ["x", i64(1, 0, 0, 2), None, i64(-1, 1)]


def _resize(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    rank, own = len(shape), _sizes(shape)
    axes = settings.get("axes")
    grown = [1.0, 1.0, 2.0, 1.5, 3.0][:rank]
    if axes is not None:
        grown = [2.0] * len(axes)
    scales = [
        np.array(s, np.float32) for s in (grown, [s and 1 / s for s in grown], [1.0, 2.0, 1.0, 0.6, 1.0][: len(grown)])
    ]
    if opset < 11:
        yield from (["x", s] for s in scales)
        return
    region = np.array([*[0.1] * rank, *[0.8] * rank], np.float32)
    yield from (["x", region if opset < 13 else None, s] for s in scales)
    sizes = (
        [own[a] + 3 for a in axes if -rank <= a < rank]
        if axes is not None
        else [own[0], *own[1:2], *(s + 3 for s in own[2:])]
    )
    yield from (["x", region, np.zeros(0, np.float32), i64(*sizes)], ["x", region, scales[0]])
    if opset >= 13:
        yield ["x", None, None, i64(*sizes)]


def _quantize(opset: int, shape: Shape, settings: Mapping[str, Any], x: str = "x") -> Iterator[Sequence[Operand]]:
    kinds = (np.uint8,) if x != "x" else (np.uint8, np.int8) if opset < 21 else (np.uint8, np.int8, np.uint16, np.int16)
    yield [x, np.array(0.037, np.float32)]
    yield from ([x, np.array(0.037, np.float32), np.array(7, kind)] for kind in kinds)
    own, axis = _sizes(shape), settings.get("axis", 1)
    if opset >= 13 and -len(own) <= axis < len(own):
        grid = np.abs(drawn(own[axis])) / 20 + 0.02
        yield from ([x, grid, np.arange(own[axis]).astype(kind)] for kind in kinds)


def _dequantize(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    yield from _quantize(opset, shape, settings, x="uint8")


def _einsum(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    """Operands of as many axes as the equation has labels, of one size for each label."""
    own, terms = _sizes(shape), str(settings["equation"]).split("->")[0].split(",")
    if len(terms) == 1:
        yield ["x"]
    elif "." not in terms[0] and len(terms[0]) == len(own):
        known = dict(zip(terms[0], own, strict=True))
        yield ["x", drawn(*(known.get(label, 8) for label in terms[1]))]
    yield from (["x", other] for other in ("x", "turned") if len(terms) == 2)


def _gather(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Iterator[Sequence[Operand]]:
    yield from (["x", i64(1, 0)], ["x", np.array(1)], ["x", np.array([[0, -1, 1], [1, 1, 0]])], ["x", i64(-2)])
    yield ["x", np.array([1], np.int32)]


_OWN: Mapping[str, Callable[[int, Shape, Mapping[str, Any]], Iterator[Sequence[Operand]]]] = {
    **{"Squeeze": _axes, "Unsqueeze": _axes, "Clip": _clip, "MatMul": _product, "Gemm": _gemm, "Conv": _conv},
    **{"ConvTranspose": _conv_transpose, "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm},
    **{"GroupNormalization": _group_norm, "RMSNormalization": _root_norm},
    **{"InstanceNormalization": _instance_norm, "Reshape": _reshape, "Slice": _slice, "Split": _split, "Pad": _pad},
    **{"Resize": _resize, "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize, "Gather": _gather},
    "Upsample": lambda opset, shape, settings: iter([["x"]]) if opset < 9 else _resize(9, shape, settings),
    "Not": lambda opset, shape, settings: iter([["bool"]]),
    "Where": lambda opset, shape, settings: iter(
        [
            ["bool", "x", "neg"],
            ["bool", drawn(), "x"],
            [np.asarray(drawn(*_sizes(shape)[1:]) > 0), "x", drawn(_sizes(shape)[-1])],
        ]
    ),
    "Concat": lambda opset, shape, settings: iter([["x", "neg", "x"], ["x"], ["x", drawn(*_sizes(shape))]]),
    "Expand": lambda opset, shape, settings: iter(
        [["x", i64(*s)] for s in ([1] * len(shape), [1, *_sizes(shape)[1:]], [2, *[1] * len(shape)], [3], [1])]
    ),
    "Tile": lambda opset, shape, settings: iter(
        [["x", i64(1, *[2, 1, 3, 1][: len(shape) - 1])], ["x", i64(*[2] * len(shape))]]
    ),
    "Einsum": _einsum,
    "Dropout": lambda opset, shape, settings: iter(
        [["x"]]
        + [["x", np.array(0.3, np.float32)], ["x", None, np.array(False)], ["x", None, np.array(True)]] * (opset >= 12)
    ),
}
