"""Lowerings of layers that hold weights, and of activations with settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from pipeline import ops
from pipeline.graph.lower import Item, Unsupported, lowers


@lowers("Conv", "ConvTranspose")
def _conv(item: Item) -> fx.Node:
    x = item.arg()
    module = item.module()
    if type(module) is nn.Sequential:
        # onnx2torch says asymmetric padding as a Pad of its own, over all axes, before a convolution without padding.
        pad: Any = module[0]
        x, module = item.build.emit(ops.Pad(pad.pads[: 2 * (len(item.shape()) - 2)]), x), module[1]
    return item.build.emit(module, x, weights=item.weights())


@lowers("Gemm", "BatchNormalization", "LayerNormalization", "InstanceNormalization")
def _layer(item: Item) -> fx.Node:
    module = item.module()
    if type(module).__module__.startswith("onnx2torch"):
        raise Unsupported("its weights are computed, not constant")
    if item.node.op_type == "InstanceNormalization" and math.prod(item.shape()[2:]) == 1:
        raise Unsupported(
            "each channel has a single place, of which normalising leaves nothing: the output is its bias"
        )
    return item.build.emit(module, item.arg(), weights=item.weights())


@lowers("Linear")
def _linear(item: Item) -> fx.Node:
    weights = item.weights()
    rows, columns = item.build.constants[weights["weight"]].shape
    return item.build.emit(nn.Linear(columns, rows, bias="bias" in weights), item.arg(), weights=weights)


@lowers("MatMul")
def _matmul(item: Item) -> fx.Node:
    """Two computed values, or a weight that Linear cannot say (on the left, or of rank 3): it trains where it stands."""
    constants, (left, right) = item.build.constants, item.node.inputs
    held = [v in constants and constants[v].ndim >= 2 for v in (left, right)]
    if not any(held) and item.both_vary() and item.rank(0) > 2:
        return item.build.emit(ops.MatrixProduct(), *item.args())
    if held[0] and isinstance(turned := item.build.made(item.arg(1)), ops.Transpose) and turned.perm == (1, 0):
        # W x^T = (x W^T)^T, where samples stay rows.
        rows, columns = constants[left].shape
        linear = nn.Linear(columns, rows, bias=False)
        y = item.build.emit(linear, item.arg(1).all_input_nodes[0], weights={"weight": left})
        return item.build.emit(ops.Transpose((1, 0)), y)
    return item.build.emit(ops.MatMul(), item.arg(0, trains=held[0]), item.arg(1, trains=held[1]), layer=any(held))


@lowers("Add")
def _add(item: Item) -> fx.Node:
    """A sum; a constant that is added to a product whose weight trains where it stands is that layer's bias, and trains."""
    if len(item.node.inputs) != 2:
        raise Unsupported("it does not have two operands")
    args = [item.arg(i, trains=item.build.is_layer(item.node.inputs[1 - i])) for i in (0, 1)]
    return item.build.emit(ops.Add(), *args)


@lowers("Mul")
def _mul(item: Item) -> fx.Node:
    return item.build.emit(ops.Product() if item.both_vary() else ops.Mul(), *item.args())


@lowers("Div")
def _div(item: Item) -> fx.Node:
    constant = not item.varies(0) and item.rank(0) <= item.rank(1)
    varies = item.varies(1) and (constant or item.both_vary())
    return item.build.emit(ops.Quotient() if varies else ops.Div(), *item.args())


@lowers("PRelu")
def _prelu(item: Item) -> fx.Node:
    slope, shape = item.array(1), item.shape()
    assert slope is not None
    per_channel = (slope.shape[-len(shape) + 1 :] if len(shape) > 1 else slope.shape) == (
        shape[1],
        *(1,) * (len(shape) - 2),
    )
    if slope.size == 1 or (slope.ndim <= len(shape) - 1 and per_channel):
        module = nn.PReLU(slope.size)
        module.weight = nn.Parameter(torch.from_numpy(np.array(slope.reshape(-1))))
        return item.build.emit(module, item.arg())
    # max(x, 0) - slope * max(-x, 0), for slopes of any shape
    below = item.build.emit(nn.ReLU(), item.build.emit(ops.Neg(), item.arg()))
    return item.build.emit(
        ops.Sub(), item.build.emit(nn.ReLU(), item.arg()), item.build.emit(ops.Mul(), below, item.arg(1))
    )


@lowers("Clip")
def _clip(item: Item) -> fx.Node:
    x = item.arg()
    ends = [item.attribute("min"), item.attribute("max")]
    for i, (position, module) in enumerate(((1, ops.Max), (2, ops.Min))):
        name = item.node.input(position)
        if name in item.build.constants and item.build.constants[name].size == 1:
            ends[i] = float(item.build.constants[name].reshape(()))
        elif name:
            x = item.build.emit(module(), x, item.build.value(name))
    low, high = (None if e is None or np.isinf(e) else float(e) for e in ends)
    if low is None and high is None and x is not item.arg():
        return x
    if low == 0.0 and high is None:
        return item.build.emit(nn.ReLU(), x)
    return item.build.emit(ops.Clip(low, high), x)


@lowers("HardSigmoid")
def _hard_sigmoid(item: Item) -> fx.Node:
    alpha, beta = item.attribute("alpha", 0.2), item.attribute("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return item.build.emit(nn.Hardsigmoid(), item.arg())
    dtype = item.build.dtype(item.node.inputs[0])
    scaled = item.build.emit(ops.Mul(), item.arg(), item.build.literal(alpha, dtype))
    return item.build.emit(ops.Clip(0.0, 1.0), item.build.emit(ops.Add(), scaled, item.build.literal(beta, dtype)))


@lowers("Gelu")
def _gelu(item: Item) -> fx.Node:
    return item.build.emit(nn.GELU(), item.arg())


@lowers("FastGelu")
def _fast_gelu(item: Item) -> fx.Node:
    return item.build.emit(nn.GELU(approximate="tanh"), item.arg())


@lowers("QuantizeLinear")
def _quantize(item: Item) -> fx.Node:
    """``saturate(round(x / s) + z)``, halves to even; whole numbers are held as floats."""
    scale, zero, kind = _grid(item)
    dtype = item.build.dtype(item.node.inputs[0])
    x = item.build.emit(ops.Div(), item.arg(), item.build.literal(scale, dtype))
    x = item.build.emit(ops.RoundToGrid(), x)
    if bool(zero.any()):
        x = item.build.emit(ops.Add(), x, item.build.literal(zero, dtype))
    ends = np.iinfo(kind)
    return item.build.emit(ops.Clip(float(ends.min), float(ends.max)), x)


@lowers("DequantizeLinear")
def _dequantize(item: Item) -> fx.Node:
    """``(q - z) s``."""
    scale, zero, _ = _grid(item)
    x, dtype = item.arg(), scale.dtype
    if bool(zero.any()):
        x = item.build.emit(ops.Sub(), x, item.build.literal(zero, dtype))
    return item.build.emit(ops.Mul(), x, item.build.literal(scale, dtype))


def _grid(item: Item) -> tuple[torch.Tensor, torch.Tensor, np.dtype]:
    """Scale and zero point, shaped along their axis, and the type of the whole numbers."""
    scale, zero = item.array(1), item.array(2)
    assert scale is not None
    if item.attribute("block_size", 0) or (zero is None and item.attribute("output_dtype", 0)):
        raise Unsupported("it quantizes in blocks, or to a type without a zero point")
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
    if zero.dtype not in (np.int8, np.uint8, np.int16, np.uint16, np.int32):
        raise Unsupported(f"it quantizes to {zero.dtype}")
    rank, axis = len(item.shape()), item.attribute("axis", 1)
    if scale.size > 1 and axis % rank == 0:
        raise Unsupported("its scale varies along the batch")
    shape = [-1, *[1] * (rank - axis % rank - 1)] if scale.size > 1 else []
    held = torch.from_numpy(np.array(scale))
    return held.reshape(shape), torch.from_numpy(np.array(zero).astype(scale.dtype)).reshape(shape), zero.dtype


@lowers("Cast")
def _cast(item: Item) -> fx.Node:
    return item.build.emit(ops.Cast(item.module().torch_dtype), item.arg())


@lowers("ArgMax")
def _argmax(item: Item) -> fx.Node:
    if item.attribute("select_last_index", 0):
        raise Unsupported("select_last_index is set")
    return item.build.emit(
        ops.ArgMax(item.attribute("axis", 0), keepdim=bool(item.attribute("keepdims", 1))), item.arg()
    )
