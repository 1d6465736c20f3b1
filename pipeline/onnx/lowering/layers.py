"""Lowerings of layers that hold weights, of products and of quantization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.ir import Node
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.lowering.pools import windows
from pipeline.onnx.operators import Unsupported

_LAYER = {1: "weight", 2: "bias"}
_WINDOW = ("auto_pad", "pads", "strides", "dilations", "group")
_SHAPED = {"kernel_shape": "the weight has it; a runtime refuses a file where they differ"}


@operator("Conv", reads=_WINDOW, inert=_SHAPED, inputs=3, weights=_LAYER, trains=True, refuses=windows)
def _conv(item: Item) -> fx.Node:
    x, module = item.arg(), item.module()
    kernel, size = item.rank(1) - 2, item.shape()[2:]
    pads, dilations = item.attribute("pads") or [0] * 2 * kernel, item.attribute("dilations") or [1] * kernel
    sizes = [n + before + after for n, before, after in zip(size, pads[:kernel], pads[kernel:], strict=True)]
    if any(n < d * (k - 1) + 1 for n, d, k in zip(sizes, dilations, item.shape(1)[2:], strict=True)):
        raise Unsupported("its window is larger than its input")
    if type(module) is nn.Sequential:
        # onnx2torch writes asymmetric padding as a Pad over all axes before a convolution without padding.
        pad: Any = module[0]
        x, module = item.build.emit(ops.Pad(pad.pads[: 2 * (len(item.shape()) - 2)]), x), module[1]
    return item.build.emit(module, x, weights=item.weights())


def _trains(node: Node, opset: int) -> str | None:
    """Before opset 14 several outputs meant training mode (ONNX BatchNormalization-9, "Output case #1")."""
    return "with several outputs it is in its training form" if opset < 14 and len(node.outputs) > 1 else None


@operator("Gemm", reads=["alpha", "beta", "transA", "transB"], inputs=3, weights=_LAYER, trains=True)
@operator(
    "BatchNormalization",
    reads=["epsilon"],
    inert={"momentum": "of training alone"},
    inputs=5,
    weights={**_LAYER, 3: "running_mean", 4: "running_var"},
    trains=True,
    refuses=_trains,
)
@operator("LayerNormalization", reads=["axis", "epsilon"], inputs=3, weights=_LAYER)
@operator("InstanceNormalization", reads=["epsilon"], inputs=3, weights=_LAYER)
def _layer(item: Item) -> fx.Node:
    module = item.module()
    if type(module).__module__.startswith("onnx2torch"):
        raise Unsupported("its weights are computed, not constant")
    if isinstance(module, nn.LayerNorm) and item.build.constants[item.input(1)].shape != tuple(module.normalized_shape):
        raise Unsupported("its scale is broadcast, or it normalises over all samples")
    if item.node.op_type == "InstanceNormalization" and math.prod(item.shape()[2:]) == 1:
        raise Unsupported(
            "each channel has a single place, of which normalising leaves nothing: the output is its bias"
        )
    return item.build.emit(module, item.arg(), weights=item.weights())


@operator("Linear", inputs=3, weights=_LAYER, trains=True)
def _linear(item: Item) -> fx.Node:
    weights = item.weights()
    rows, columns = item.build.constants[weights["weight"]].shape
    return item.build.emit(nn.Linear(columns, rows, bias="bias" in weights), item.arg(), weights=weights)


@operator("MatMul", inputs=2, trains=True)
def _matmul(item: Item) -> fx.Node:
    """Of two computed values, or with a weight that is no Linear's (on the left, or of rank 3) and trains as an operand."""
    constants, (left, right) = item.build.constants, item.node.inputs
    is_weight = [v in constants and constants[v].ndim >= 2 for v in (left, right)]
    if not any(is_weight) and item.both_vary() and item.rank(0) > 2:
        return item.build.emit(ops.MatrixProduct(), *item.args())
    if (
        is_weight[0]
        and isinstance(transpose := item.build.module_of(item.arg(1)), ops.Transpose)
        and transpose.perm == (1, 0)
    ):
        # W x^T = (x W^T)^T, where samples stay rows.
        rows, columns = constants[left].shape
        linear = nn.Linear(columns, rows, bias=False)
        y = item.build.emit(linear, item.arg(1).all_input_nodes[0], weights={"weight": item.input(0)})
        return item.build.emit(ops.Transpose((1, 0)), y)
    return item.build.emit(
        ops.MatMul(), item.arg(0, trains=is_weight[0]), item.arg(1, trains=is_weight[1]), layer=any(is_weight)
    )


@operator("Add", inputs=2, pointwise=True)
def _add(item: Item) -> fx.Node:
    """A sum; a constant added to a product whose weight is an operand is that layer's bias, and trains."""
    args = [item.arg(i, trains=item.build.is_layer(item.node.inputs[1 - i])) for i in (0, 1)]
    return item.build.emit(ops.Add(), *args)


@operator("Mul", inputs=2, pointwise=True)
def _mul(item: Item) -> fx.Node:
    return item.build.emit(ops.Product() if item.both_vary() else ops.Mul(), *item.args())


@operator("Div", inputs=2, pointwise=True)
def _div(item: Item) -> fx.Node:
    constant = not item.varies(0) and item.rank(0) <= item.rank(1)
    varies = item.varies(1) and (constant or item.both_vary())
    return item.build.emit(ops.Quotient() if varies else ops.Div(), *item.args())


_GRID = ("axis", "block_size", "output_dtype")


@operator("QuantizeLinear", reads=_GRID, inputs=3)
def _quantize(item: Item) -> fx.Node:
    """``saturate(round(x / s) + z)``, halves to even; the integers are represented as floats."""
    scale, zero, kind = _grid(item)
    dtype = item.build.dtype(item.node.inputs[0])
    x = item.build.emit(ops.Div(), item.arg(), item.build.literal(scale, dtype))
    x = item.build.emit(ops.RoundToGrid(), x)
    if bool(zero.any()):
        x = item.build.emit(ops.Add(), x, item.build.literal(zero, dtype))
    ends = np.iinfo(kind)
    return item.build.emit(ops.Clip(float(ends.min), float(ends.max)), x)


@operator("DequantizeLinear", reads=_GRID, inputs=3)
def _dequantize(item: Item) -> fx.Node:
    """``(q - z) s``."""
    scale, zero, _ = _grid(item)
    x, dtype = item.arg(), scale.dtype
    if bool(zero.any()):
        x = item.build.emit(ops.Sub(), x, item.build.literal(zero, dtype))
    return item.build.emit(ops.Mul(), x, item.build.literal(scale, dtype))


def _grid(item: Item) -> tuple[torch.Tensor, torch.Tensor, np.dtype]:
    """Scale and zero point, shaped to broadcast along their axis, and the integer type."""
    scale, zero = item.array(1), item.array(2)
    assert scale is not None
    if item.attribute("block_size") or (zero is None and item.attribute("output_dtype")):
        raise Unsupported("it quantizes in blocks, or to a type without a zero point")
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
    if zero.dtype not in (np.int8, np.uint8, np.int16, np.uint16, np.int32):
        raise Unsupported(f"it quantizes to {zero.dtype}")
    rank, axis = len(item.shape()), item.attribute("axis")
    if scale.size > 1 and axis % rank == 0:
        raise Unsupported("its scale varies along the batch")
    shape = [-1, *[1] * (rank - axis % rank - 1)] if scale.size > 1 else []
    scale_tensor = torch.from_numpy(np.array(scale))
    return scale_tensor.reshape(shape), torch.from_numpy(np.array(zero).astype(scale.dtype)).reshape(shape), zero.dtype


@operator("Cast", reads=["to"])
def _cast(item: Item) -> fx.Node:
    return item.build.emit(ops.Cast(item.module().torch_dtype), item.arg())


@operator("ArgMax", reads=["axis", "keepdims", "select_last_index"])
def _argmax(item: Item) -> fx.Node:
    if item.flag("select_last_index"):
        raise Unsupported("select_last_index is set")
    return item.build.emit(ops.ArgMax(item.attribute("axis"), keepdim=item.flag("keepdims")), item.arg())
