"""Lowerings of operators that work entry by entry; Identity and Dropout are entered too, which a pass removes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import fx, nn

from pipeline.core import ops
from pipeline.onnx.lowering.lower import Item, Lowering, operator
from pipeline.onnx.operators import Operator, Unsupported, enter

enter(Operator("Identity"))
enter(Operator("Dropout", inputs=3, inert=dict.fromkeys(("ratio", "seed"), "nothing is dropped at inference")))


def _plain(module: type[nn.Module]) -> Lowering:
    """The lowering to a module without settings."""
    return lambda item: item.build.emit(module(), *item.args())


UNARY: dict[str, type[nn.Module]] = {
    **{"Relu": nn.ReLU, "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "Softsign": nn.Softsign},
    **{"Neg": ops.Neg, "Abs": ops.Abs, "Reciprocal": ops.Reciprocal, "Sqrt": ops.Sqrt, "Exp": ops.Exp, "Log": ops.Log},
    **{
        "Erf": ops.Erf,
        "Sin": ops.Sin,
        "Cos": ops.Cos,
        "Atan": ops.Atan,
        "Sign": ops.Sign,
        "Floor": ops.Floor,
        "Ceil": ops.Ceil,
    },
    **{"Round": ops.Round, "Not": ops.Not},
}
for _name, _module in UNARY.items():
    operator(_name, pointwise=True)(_plain(_module))

BINARY: dict[str, type[nn.Module]] = {
    **{"Sub": ops.Sub, "Pow": ops.Pow, "And": ops.And, "Or": ops.Or, "Equal": ops.Equal},
    **{"Greater": ops.Greater, "Less": ops.Less},
    **{"GreaterOrEqual": ops.GreaterOrEqual, "LessOrEqual": ops.LessOrEqual},
}
for _name, _module in BINARY.items():
    operator(_name, inputs=2, pointwise=True)(_plain(_module))

operator("Where", inputs=3, pointwise=True)(_plain(ops.Where))

ASSOCIATIVE: dict[str, Callable[[int], nn.Module]] = {
    "Sum": ops.Add,
    "Min": lambda _: ops.Min(),
    "Max": lambda _: ops.Max(),
}
"""Operators of any number of operands, lowered two at a time."""


@operator(*ASSOCIATIVE, inputs=None, pointwise=True)
def _chain(item: Item) -> fx.Node:
    total, *others = item.args()
    for other in others:
        total = item.build.emit(ASSOCIATIVE[item.node.op_type](len(others) + 1), total, other)
    return total


@operator("Clip", reads=["min", "max"], inputs=3, pointwise=True)
def _clip(item: Item) -> fx.Node:
    x = item.arg()
    ends: list[float | None] = [None, None]
    for i, (position, module) in enumerate(((1, ops.Max), (2, ops.Min))):
        name = item.input(position)
        if name in item.build.constants and item.build.constants[name].size == 1:
            ends[i] = end = float(item.build.constants[name].reshape(()))
            if np.isnan(end) or end == (np.inf, -np.inf)[i]:
                raise Unsupported(f"its {('min', 'max')[i]} is {end}, which leaves no finite number")
        elif name:
            # The lower end is applied first: where the ends cross, the upper one is the result.
            if ends[0] is not None and np.isfinite(ends[0]):
                x, ends[0] = item.build.emit(ops.Clip(ends[0], None), x), None
            x = item.build.emit(module(), x, item.build.value(name))
    low, high = (None if e is None or np.isinf(e) else float(e) for e in ends)
    if low is None and high is None and x is not item.arg():
        return x
    if low == 0.0 and high is None:
        return item.build.emit(nn.ReLU(), x)
    return item.build.emit(ops.Clip(low, high), x)


@operator("HardSigmoid", reads=["alpha", "beta"], pointwise=True)
def _hard_sigmoid(item: Item) -> fx.Node:
    alpha, beta = item.attribute("alpha"), item.attribute("beta")
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return item.build.emit(nn.Hardsigmoid(), item.arg())
    dtype = item.build.dtype(item.node.inputs[0])
    product = item.build.emit(ops.Mul(), item.arg(), item.build.literal(alpha, dtype))
    return item.build.emit(ops.Clip(0.0, 1.0), item.build.emit(ops.Add(), product, item.build.literal(beta, dtype)))


@operator("Gelu", reads=["approximate"], pointwise=True)
def _gelu(item: Item) -> fx.Node:
    return item.build.emit(nn.GELU(approximate=item.attribute("approximate").decode()), item.arg())


@operator("LeakyRelu", reads=["alpha"], pointwise=True)
def _leaky_relu(item: Item) -> fx.Node:
    """With the slope rounded to float32, as a runtime has it: the default 0.01 is no float32."""
    return item.build.emit(nn.LeakyReLU(float(np.float32(item.attribute("alpha")))), item.arg())


@operator("Celu", "Elu", reads=["alpha"], pointwise=True)
@operator("HardSwish", "Selu", "Softplus", pointwise=True)
def _activation(item: Item) -> fx.Node:
    """onnx2torch converts these to modules of torch.nn without parameters."""
    if item.node.op_type == "Celu" and abs(alpha := item.attribute("alpha")) < np.finfo(np.float32).tiny:
        raise Unsupported(f"its alpha is {alpha:g}, by which it divides")
    return item.build.emit(item.module(), item.arg())


@operator("PRelu", inputs=2)
def _prelu(item: Item) -> fx.Node:
    slope, shape = item.array(1), item.shape()
    assert slope is not None
    rank, width = len(shape), shape[1] if len(shape) > 1 else 1
    per_channel = slope.shape[-(rank - 1) :] == (width, *[1] * (rank - 2)) if rank > 1 else False
    if slope.ndim <= rank and (slope.size == 1 or (slope.ndim < rank and per_channel)):
        module = nn.PReLU(slope.size)
        module.weight = nn.Parameter(torch.from_numpy(np.array(slope.reshape(-1))))
        return item.build.emit(module, item.arg())
    # max(x, 0) - slope * max(-x, 0), for slopes of any shape
    below = item.build.emit(nn.ReLU(), item.build.emit(ops.Neg(), item.arg()))
    return item.build.emit(
        ops.Sub(), item.build.emit(nn.ReLU(), item.arg()), item.build.emit(ops.Mul(), below, item.arg(1))
    )


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
