"""What the inputs of each operator are tried with: ``x``, something made of it, constants of every fitting shape, nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tests.onnx.schema_layers import LAYERS
from tests.onnx.schema_moves import MOVES
from tests.onnx.schema_values import Operand, Shape, drawn, i64, sizes_of

Operands = Iterator[Sequence[Operand]]


def alternatives(operator: str, opset: int, shape: Shape, settings: Mapping[str, Any]) -> Operands:
    """The operands of an operator at an opset, for an input of a shape and attributes; none where nothing fits."""
    own = {**LAYERS, **MOVES}.get(operator)
    if own is not None:
        yield from own(opset, shape, settings)
    elif operator in _PAIRS:
        yield from _pairs(operator, shape)
    elif operator.startswith("Reduce"):
        yield from _reductions(operator, opset, shape)
    else:
        yield from _few(operator, opset, shape)


_PAIRS = ("Add", "Sub", "Mul", "Div", "Pow", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "And", "Or",
          "PRelu", "Sum", "Min", "Max", "Mean")  # fmt: skip


def _pairs(operator: str, shape: Shape) -> Operands:
    own = sizes_of(shape)
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
    if operator in ("Sum", "Min", "Max", "Mean"):
        yield from (["x"], ["x", "neg", np.asarray(others[0])])


def _reductions(operator: str, opset: int, shape: Shape) -> Operands:
    yield ["x"]
    if opset >= (13 if operator == "ReduceSum" else 18):
        rank = len(shape)
        yield from (["x", i64(a)] for a in range(-rank, rank))
        yield from (["x", i64(*range(1, rank))], ["x", np.zeros(0, np.int64)], ["x", i64(-1, 0)])


def _few(operator: str, opset: int, shape: Shape) -> Operands:
    low, high, six = (np.array(v, np.float32) for v in (-0.4, 0.7, 6))
    if operator == "Not":
        yield ["bool"]
    elif operator == "Concat":
        yield from (["x", "neg", "x"], ["x"], ["x", drawn(*sizes_of(shape))])
    elif operator == "Where":
        own = sizes_of(shape)
        yield from (
            ["bool", "x", "neg"],
            ["bool", drawn(), "x"],
            [np.asarray(drawn(*own[1:]) > 0), "x", drawn(own[-1])],
        )
    else:
        yield ["x"]
    if operator == "Clip" and opset >= 11:
        yield from (
            ["x", low, high],
            ["x", low],
            ["x", None, high],
            ["x", np.array(0, np.float32), six],
            ["x", high, low],
        )
    if operator == "Dropout" and opset >= 12:
        yield from (["x", np.array(0.3, np.float32)], ["x", None, np.array(False)], ["x", None, np.array(True)])
