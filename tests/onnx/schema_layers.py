"""Operands of layers, products and norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.onnx.schema_values import Operand, Shape, drawn, sizes_of

Operands = Iterator[Sequence[Operand]]


def _product(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    own = sizes_of(shape)
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


def _gemm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    rows, inner = sizes_of(shape)[:: -1 if settings.get("transA") else 1]
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
    yield from ([drawn(8, sizes_of(shape)[0]), "x"], ["turned", "x"], ["x", "turned"])
    yield ["x", weight, "x"]


def _conv(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    kernel = list(settings.get("kernel_shape", [3, 2, 2][: len(shape) - 2]))
    weight = drawn(6 if settings.get("group") != 4 else 8, sizes_of(shape)[1] // settings.get("group", 1), *kernel)
    yield from (["x", weight, drawn(len(weight), seed=1)], ["x", weight])


def _conv_transpose(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    kernel = list(settings.get("kernel_shape", [3, 2, 2][: len(shape) - 2]))
    weight = drawn(sizes_of(shape)[1], 3, *kernel)
    yield from (["x", weight, drawn(3 * settings.get("group", 1), seed=1)], ["x", weight])


def _batch_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    width = sizes_of(shape)[1:] if settings.get("spatial", 1) == 0 else sizes_of(shape)[1:2]
    scale, shift, mean = (drawn(*width, seed=s) for s in range(3))
    yield ["x", scale, shift, mean, np.abs(drawn(*width, seed=3)) + 0.1]


def _layer_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    own = sizes_of(shape)[settings.get("axis", -1) :]
    yield from (["x", drawn(*own), drawn(*own, seed=1)], ["x", drawn(*own)])


def _instance_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    width = sizes_of(shape)[1]
    yield ["x", drawn(width), drawn(width, seed=1)]


def _group_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    width = sizes_of(shape)[1] if opset >= 21 else int(settings["num_groups"])
    yield ["x", drawn(width), drawn(width, seed=1)]


def _root_norm(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    own = sizes_of(shape)[settings.get("axis", -1) :]
    yield from (["x", drawn(*own)], ["x", drawn(1)])


def _quantize(opset: int, shape: Shape, settings: Mapping[str, Any], x: str = "x") -> Operands:
    kinds = (np.uint8,) if x != "x" else (np.uint8, np.int8) if opset < 21 else (np.uint8, np.int8, np.uint16, np.int16)
    yield [x, np.array(0.037, np.float32)]
    yield from ([x, np.array(0.037, np.float32), np.array(7, kind)] for kind in kinds)
    own, axis = sizes_of(shape), settings.get("axis", 1)
    if opset >= 13 and -len(own) <= axis < len(own):
        grid = np.abs(drawn(own[axis])) / 20 + 0.02
        yield from ([x, grid, np.arange(own[axis]).astype(kind)] for kind in kinds)


def _dequantize(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    yield from _quantize(opset, shape, settings, x="uint8")


def _einsum(opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    """Operands of as many axes as the equation has labels, of one size for each label."""
    own, terms = sizes_of(shape), str(settings["equation"]).split("->")[0].split(",")
    if len(terms) == 1:
        yield ["x"]
    elif "." not in terms[0] and len(terms[0]) == len(own):
        known = dict(zip(terms[0], own, strict=True))
        yield ["x", drawn(*(known.get(label, 8) for label in terms[1]))]
    yield from (["x", other] for other in ("x", "turned") if len(terms) == 2)


LAYERS: Mapping[str, Callable[[int, Shape, Mapping[str, Any]], Operands]] = {
    **{"MatMul": _product, "Gemm": _gemm, "Conv": _conv, "ConvTranspose": _conv_transpose, "Einsum": _einsum},
    **{"BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm},
    **{"GroupNormalization": _group_norm, "RMSNormalization": _root_norm},
    **{"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize},
}
