"""Lowerings of activations of newer opsets, and of those that are composed of others."""

from __future__ import annotations

from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.lowering.lower import Item, operator
from pipeline.onnx.operators import Unsupported


@operator("Mish", pointwise=True)
def _mish(item: Item) -> fx.Node:
    return item.build.emit(nn.Mish(), item.arg())


@operator("ThresholdedRelu", reads=["alpha"], pointwise=True)
def _thresholded_relu(item: Item) -> fx.Node:
    """``x`` where ``x > alpha``, else 0: ReLU for ``alpha = 0``, discontinuous for any other."""
    if (alpha := item.attribute("alpha")) != 0:
        raise Unsupported(f"it jumps at alpha = {alpha:g}; only alpha = 0, which is Relu, is supported")
    return item.build.emit(nn.ReLU(), item.arg())


@operator("Shrink", reads=["bias", "lambd"], pointwise=True)
def _shrink(item: Item) -> fx.Node:
    """``x + bias`` below ``-lambd``, ``x - bias`` above ``lambd``, else 0; continuous where bias equals lambd."""
    bias, lambd = item.attribute("bias"), item.attribute("lambd")
    if bias != lambd or lambd < 0:
        raise Unsupported(f"it jumps where |x| is lambd = {lambd:g}; only bias = lambd >= 0 is supported")
    edge, x = item.build.literal(lambd, item.build.dtype(item.node.inputs[0])), item.arg()
    above = item.build.emit(nn.ReLU(), item.build.emit(ops.Sub(), x, edge))
    below = item.build.emit(nn.ReLU(), item.build.emit(ops.Sub(), item.build.emit(ops.Neg(), x), edge))
    return item.build.emit(ops.Sub(), above, below)
