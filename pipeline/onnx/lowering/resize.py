"""Lowering of Resize: each axis by a table of what the result reads, which ONNX Runtime itself is asked for.

A Resize works on each axis by itself, and is linear in its input. Which entries an entry of the result reads, and with which
weights, follows from coordinates that are computed in float32; where one falls on a tie, a rounding decides, and releases of
ONNX Runtime differ there. So nothing is computed a second time here: the node's own attributes are run on unit vectors, and
what comes out is the table.
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
from pipeline.onnx.lowering.lower import Item
from pipeline.onnx.names import shown
from pipeline.onnx.operators import Unsupported, operator

_KEPT = (
    *("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias"),
    "extrapolation_value",
)
_LINEAR_IN_EACH_AXIS = (b"nearest", b"linear", b"cubic")


@operator("Upsample", reads=["mode", "scales"], inputs=2, opsets=range(7, 10))
@operator("Resize", reads=[*_KEPT, "axes"], inputs=4, opsets=range(10, 24))
def _resize(item: Item) -> fx.Node:
    before, after = item.shape(), item.build.shapes[item.node.outputs[0]]
    mode, where = item.attribute("mode"), item.attribute("coordinate_transformation_mode")
    item.input(1)  # the region of interest, of tf_crop_and_resize alone
    if mode not in _LINEAR_IN_EACH_AXIS:
        raise Unsupported(f"mode {shown(mode.decode(errors='replace'))}")
    if where == b"tf_crop_and_resize":
        raise Unsupported("coordinate_transformation_mode tf_crop_and_resize, which cuts out a region")
    axes = [a % len(before) for a in item.attribute("axes") or range(len(before))]
    if any(item.node.input(i) and item.node.input(i) not in item.build.constants for i in (2, 3)):
        raise Unsupported("its size depends on the batch, on free sizes of the input, or on data")
    scales, sizes = item.array(2), item.array(3)
    given = scales if scales is not None and scales.size else sizes
    if given is None or given.size != len(axes):
        raise Unsupported("it has neither scales nor sizes for its axes")
    if before[0] != after[0] or (0 in axes and (given is sizes or given[axes.index(0)] != 1)):
        raise Unsupported("it resizes the batch")
    attributes = tuple((k, item.node.attributes[k]) for k in sorted(_KEPT) if k in item.node.attributes)
    if before == after:
        return item.arg()  # the kernel copies, whatever the mode says
    if item.build.free_sizes:
        raise Unsupported("it is read at one size of its input, and the file leaves sizes free")
    tables = {}
    for axis, value in zip(axes, given, strict=True):
        scale = float(value) if given is scales else None
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
            where.decode(),
            _scale(given, given is scales, axes.index(axis), before[axis]),
        )
        for axis, table in tables.items()
    )
    held = {axis: torch.from_numpy(np.array(table)) for axis, table in tables.items()}
    return item.build.emit(ops.Resize(held, exact=exact), item.arg())


def _scale(given: np.ndarray, scales: bool, place: int, length: int) -> Fraction:
    """By how much an axis grows, in real arithmetic."""
    return Fraction(float(given[place])) if scales else Fraction(int(given[place]), length)


@cache
def _table(attributes: tuple[tuple[str, Any], ...], length: int, resized: int, scale: float | None) -> np.ndarray:
    """The matrix (resized, length) that the node applies along one axis, by running it on unit vectors.

    They stand in a tensor (length, 1, length, 1); the last axis grows to two, for a node that changes no size only copies.
    """
    if scale is None:
        held, inputs = np.array([length, 1, resized, 2], np.int64), ["x", "", "", "s"]
    else:
        held, inputs = np.array([1, 1, scale, 2], np.float32), ["x", "", "s"]
    known = dict(attributes)
    newer = "antialias" in known or known.get("coordinate_transformation_mode") == b"half_pixel_symmetric"
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["y"], **known)],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [length, 1, length, 1])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(held, "s")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19 if newer else 17)], ir_version=8)
    unit = np.eye(length, dtype=np.float32).reshape(length, 1, length, 1)
    (made,) = runtime.session(model.SerializeToString())(unit)
    if made.shape[2] != resized:
        raise Unsupported(f"its scale {scale} gives another size along one axis than in the whole node")
    return np.ascontiguousarray(made[:, 0, :, 0].T)


def _is_exact(table: np.ndarray, length: int, resized: int, where: str, scale: Fraction) -> bool:
    """Whether the weights of a linear table are those of real arithmetic, so that no implementation rounds to others."""
    half, last = Fraction(1, 2), Fraction(length - 1)
    for i, row in enumerate(table):
        if where == "asymmetric":
            x = i / scale
        elif where == "align_corners":
            x = i * last / (resized - 1) if resized > 1 else Fraction(0)
        elif where == "half_pixel" or (where == "pytorch_half_pixel" and resized > 1):
            x = (i + half) / scale - half
        else:
            return False
        x = min(max(x, Fraction(0)), last)
        left = int(x)
        wanted = {left: 1 - (x - left)} | ({left + 1: x - left} if x > left else {})
        if any(Fraction(float(w)) != wanted.get(j, 0) for j, w in enumerate(row)):
            return False
    return True
