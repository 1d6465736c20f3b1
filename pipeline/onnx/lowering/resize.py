"""Lowering of Resize: one matrix for each axis, read from ONNX Runtime itself.

A Resize works on each axis separately, and is linear in its input. Which entries an entry of the result reads, and with which
weights, depends on coordinates that are computed in float32; at a tie rounding decides, and releases of ONNX Runtime differ. So
the coordinates are not recomputed here: ONNX Runtime runs the node's attributes on unit vectors, which gives the matrix.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from pipeline.core import ops
from pipeline.onnx import runtime
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.names import shown
from pipeline.onnx.operators import Unsupported

_SETTINGS = (
    *("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias"),
    "extrapolation_value",
)
_LINEAR_IN_EACH_AXIS = (b"nearest", b"linear", b"cubic")


@operator("Upsample", reads=["mode", "scales"], inputs=2, opsets=range(7, 10))
@operator("Resize", reads=[*_SETTINGS, "axes"], inputs=4, opsets=range(10, 24))
def _resize(item: Item) -> fx.Node:
    before, after = item.shape(), item.build.shapes[item.node.outputs[0]]
    mode, coordinates = item.attribute("mode"), item.attribute("coordinate_transformation_mode")
    item.input(1)  # the region of interest, of tf_crop_and_resize alone
    if mode not in _LINEAR_IN_EACH_AXIS:
        raise Unsupported(f"mode {shown(mode.decode(errors='replace'))}")
    if coordinates == b"tf_crop_and_resize":
        raise Unsupported("coordinate_transformation_mode tf_crop_and_resize, which cuts out a region")
    axes = [a % len(before) for a in item.attribute("axes") or range(len(before))]
    if any(item.node.input(i) and item.node.input(i) not in item.build.constants for i in (2, 3)):
        raise Unsupported("its size depends on the batch, on free sizes of the input, or on data")
    scales, sizes = item.array(2), item.array(3)
    factors = scales if scales is not None and scales.size else sizes
    if factors is None or factors.size != len(axes):
        raise Unsupported("it has neither scales nor sizes for its axes")
    if before[0] != after[0] or (0 in axes and (factors is sizes or factors[axes.index(0)] != 1)):
        raise Unsupported("it resizes the batch")
    attributes = tuple((k, item.node.attributes[k]) for k in sorted(_SETTINGS) if k in item.node.attributes)
    if before == after:
        return item.arg()  # the kernel copies, in every mode
    if item.build.free_sizes:
        raise Unsupported("it is read at one size of its input, and the file leaves sizes free")
    tables = {}
    for axis, value in zip(axes, factors, strict=True):
        scale = float(value) if factors is scales else None
        if before[axis] != after[axis] or scale not in (None, 1.0):
            tables[axis] = _table(attributes, before[axis], after[axis], scale)
    if all(((table == 0) | (table == 1)).all() and (table.sum(1) == 1).all() for table in tables.values()):
        x = item.arg()
        for axis, table in tables.items():
            x = item.build.emit(ops.Gather(torch.from_numpy(table.argmax(1)), axis), x)
        return x
    exact = mode == b"linear" and all(
        _is_exact(
            table,
            before[axis],
            after[axis],
            coordinates.decode(),
            _scale(factors, factors is scales, axes.index(axis), before[axis]),
        )
        for axis, table in tables.items()
    )
    tensors = {axis: torch.from_numpy(np.array(table)) for axis, table in tables.items()}
    return item.build.emit(ops.Resize(tensors, exact=exact), item.arg())


def _scale(factors: np.ndarray, are_scales: bool, index: int, length: int) -> Fraction:
    """The exact factor by which an axis of ``length`` is resized."""
    return Fraction(float(factors[index])) if are_scales else Fraction(int(factors[index]), length)


@cache
def _table(attributes: tuple[tuple[str, Any], ...], length: int, resized: int, scale: float | None) -> np.ndarray:
    """The matrix (resized, length) that the node applies along one axis, by running it on unit vectors.

    Their tensor has shape (length, 1, length, 1); its last axis is resized to two, because a node that changes no size copies.
    """
    if scale is None:
        sizes, inputs = np.array([length, 1, resized, 2], np.int64), ["x", "", "", "s"]
    else:
        sizes, inputs = np.array([1, 1, scale, 2], np.float32), ["x", "", "s"]
    settings = dict(attributes)
    newer = "antialias" in settings or settings.get("coordinate_transformation_mode") == b"half_pixel_symmetric"
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **settings)],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [length, 1, length, 1])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(sizes, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19 if newer else 17)], ir_version=8)
    unit = np.eye(length, dtype=np.float32).reshape(length, 1, length, 1)
    (output,) = runtime.session(model.SerializeToString())(unit)
    if output.shape[2] != resized:
        raise Unsupported(f"its scale {scale} gives another size along one axis than in the whole node")
    return np.ascontiguousarray(output[:, 0, :, 0].T)


def _is_exact(table: np.ndarray, length: int, resized: int, coordinates: str, scale: Fraction) -> bool:
    """Whether the weights of a linear table are those of real arithmetic, so that no implementation rounds to others."""
    half, last = Fraction(1, 2), Fraction(length - 1)
    for i, row in enumerate(table):
        if coordinates == "asymmetric":
            x = i / scale
        elif coordinates == "align_corners":
            x = i * last / (resized - 1) if resized > 1 else Fraction(0)
        elif coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and resized > 1):
            x = (i + half) / scale - half
        else:
            return False
        x = min(max(x, Fraction(0)), last)
        left = int(x)
        weights = {left: 1 - (x - left)} | ({left + 1: x - left} if x > left else {})
        if any(Fraction(float(w)) != weights.get(j, 0) for j, w in enumerate(row)):
            return False
    return True
