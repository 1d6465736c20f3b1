"""Lowerings of GroupNormalization, RMSNormalization and LpNormalization."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.lowering.reductions import square
from pipeline.onnx.operators import Unsupported

FLOAT = 1
"""``stash_type``: mean and variance are computed in float32."""


@operator(
    "GroupNormalization",
    reads=["num_groups", "epsilon", "stash_type"],
    inputs=3,
    weights={1: "weight", 2: "bias"},
)
def _group(item: Item) -> fx.Node:
    """Scale and bias for each group up to opset 20, for each channel from opset 21 on."""
    shape, groups, scale, bias = item.shape(), int(item.attribute("num_groups")), item.array(1), item.array(2)
    assert scale is not None
    assert bias is not None
    if item.attribute("stash_type") != FLOAT:
        raise Unsupported("stash_type is not float32")
    if shape[1] % groups or scale.shape not in ((groups,), (shape[1],)):
        raise Unsupported(f"{shape[1]} channels, {groups} groups and {list(scale.shape)} scales do not fit")
    if math.prod(shape[1:]) == groups:
        raise Unsupported("each group has a single entry, of which normalising leaves nothing: the output is its bias")
    module = nn.GroupNorm(groups, shape[1], eps=float(item.attribute("epsilon")))
    if len(scale) == shape[1]:
        return item.build.emit(module, item.arg(), weights=item.weights())
    for parameter, array in ((module.weight, scale), (module.bias, bias)):
        parameter.data = torch.from_numpy(np.repeat(array, shape[1] // groups))
    return item.build.emit(module, item.arg())


@operator("RMSNormalization", reads=["axis", "epsilon", "stash_type"], inputs=2, weights={1: "weight"})
def _root_mean_square(item: Item) -> fx.Node:
    shape, scale = item.shape(), item.array(1)
    assert scale is not None
    axis = item.attribute("axis") % len(shape)
    if item.attribute("stash_type") != FLOAT:
        raise Unsupported("stash_type is not float32")
    if axis == 0:
        raise Unsupported("it normalises over the batch")
    module = nn.RMSNorm(shape[axis:], eps=float(item.attribute("epsilon")))
    if scale.shape == shape[axis:]:
        return item.build.emit(module, item.arg(), weights=item.weights())
    module.weight.data = torch.from_numpy(np.broadcast_to(scale, shape[axis:]).copy())
    return item.build.emit(module, item.arg())


@operator("LpNormalization", reads=["axis", "p"])
def _lp(item: Item) -> fx.Node:
    """``x / |x|_p`` along an axis, for p = 1 and 2; where the norm may be zero there is no bound."""
    axis, p, x = item.attribute("axis") % len(item.shape()), item.attribute("p"), item.arg()
    if axis == 0 or p not in (1, 2):
        raise Unsupported(f"it runs along the batch, or p = {p} is neither 1 nor 2")
    if p == 1:
        size = item.build.emit(ops.ReduceSum([axis], keepdim=True), item.build.emit(ops.Abs(), x))
    else:
        squares = item.build.emit(ops.ReduceSum([axis], keepdim=True), square(item, x))
        size = item.build.emit(ops.RootOfSquares(), squares)
    return item.build.emit(ops.WholeKernel("LpNormalization"), item.build.emit(ops.GuardedQuotient(), x, size))
