"""The values of forms: constants without ties, ``x``, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def _counted(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    constants.append(numpy_helper.from_array(np.float32(2), "twice"))
    return [helper.make_node("Mul", ["x", "twice"], ["double"]), helper.make_node("Cast", ["double"], [name], to=7)]


def _backwards(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    return _made("Transpose", name, perm=[*range(rank)][::-1])


def _part(name: str, rank: int, constants: Constants) -> list[onnx.NodeProto]:
    constants += [numpy_helper.from_array(np.array([0, 1]), "first")]
    turned = [*_backwards("around", rank, constants), helper.make_node("Neg", ["around"], ["minus"])]
    return [*turned, helper.make_node("Gather", ["minus", "first"], [name], axis=0)]


OPERANDS: Mapping[str, Callable[[str, int, Constants], list[onnx.NodeProto]]] = {
    "neg": lambda name, rank, constants: _made("Neg", name),
    "bool": _truth,
    "turned": _turned,
    "uint8": _whole,
    "int64": _counted,
    "backwards": _backwards,
    "part": _part,
}
"""What is made of ``x``: minus it, whether it exceeds a number, its last two axes exchanged, whole numbers of two types,
all axes turned round, and of these the first two entries, negative."""


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Numbers of both signs, all different."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def sizes_of(shape: Shape) -> list[int]:
    return [int(d) if d != "batch" else 1 for d in shape]
