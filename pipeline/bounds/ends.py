"""The two ends of values, exact where boxes with a center and a radius must round outward: for inequalities that hold at a tie.

What only selects (ReLU, Clip, a maximum), changes signs, or moves entries rounds nothing, in float32 as in the reals; a sum of
products that are all at least zero is at least zero in any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.network import Plan
from pipeline.core.rounding import Rounding
from pipeline.rules import Rearrange, rule_for
from pipeline.rules.affine import correlate

Ends = tuple[Tensor, Tensor]

SELECTING = (
    *(nn.ReLU, nn.ReLU6, ops.Clip, ops.Max, ops.Min, ops.ReduceMax, ops.ReduceMin),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)
"""Nondecreasing in every entry, and each result is one of the entries or a constant."""


def exact_ends(plan: Plan, values: Mapping[int, Interval | Tensor], rounding: Rounding) -> list[Ends]:
    """The ends of each output that varies, from the boxes of all nodes; a bound that is NaN stays NaN."""
    ends: dict[int, Ends] = {}
    for index in plan.inputs:
        box = values[index]
        assert isinstance(box, Interval)
        ends[index] = rounding.ends(box)
    for step in plan.steps:
        value = values.get(step.index)
        if not isinstance(value, Interval):
            continue  # computed from constants alone
        lower, upper = rounding.ends(value)
        args = [ends[a] if a in ends else (values[a], values[a]) for a in step.args]
        low, high = _ends(step.op, *args) or (lower, upper)
        ends[step.index] = torch.maximum(lower, low), torch.minimum(upper, high)
    return [ends[index] for index in plan.outputs if index in ends]


def _ends(op: nn.Module, *args: Any) -> Ends | None:
    """The ends of an operator from those of its arguments, None where nothing is better than its box."""
    (low, high), *rest = args
    if isinstance(op, SELECTING) or isinstance(rule_for(op), Rearrange):
        return op(*(a for a, _ in args)), op(*(b for _, b in args))
    if isinstance(op, ops.Neg):
        return -high, -low
    if isinstance(op, ops.Abs):
        return torch.maximum(low, -high).clamp_min(0), torch.maximum(high, -low)
    if isinstance(op, ops.Add):
        ((first, last),) = rest
        return _signed((low < 0) | (first < 0), (high > 0) | (last > 0))
    if isinstance(op, ops.Mul):
        ((first, last),) = rest
        # Of the two one is a constant: a product of values is another operator.
        negative = ((low < 0) & (last > 0)) | ((high > 0) & (first < 0))
        positive = ((high > 0) & (last > 0)) | ((low < 0) & (first < 0))
        return _signed(negative, positive)
    if isinstance(op, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        falls, rises = (_any(op, low < 0, high > 0), _any(op, high > 0, low < 0))
        bias = None if op.bias is None else op.bias.reshape(-1, *[1] * (op.weight.dim() - 2))
        if bias is not None:
            falls, rises = falls | (bias < 0), rises | (bias > 0)
        return _signed(falls, rises)
    return None


def _any(op: Any, through_positive: Tensor, through_negative: Tensor) -> Tensor:
    """Whether some product has one of the entries marked, through a weight of that sign."""

    def count(marked: Tensor, weight: Tensor) -> Tensor:
        x, w = marked.to(op.weight), weight.to(op.weight)
        return nn.functional.linear(x, w) if isinstance(op, nn.Linear) else correlate(op, x, w, None)

    return count(through_positive, op.weight > 0) + count(through_negative, op.weight < 0) > 0.5


def _signed(negative: Tensor, positive: Tensor) -> Ends:
    """Zero as an end wherever nothing lies beyond it."""
    infinite = torch.full(negative.shape, torch.inf, dtype=torch.float64, device=negative.device)
    return torch.where(negative, -infinite, 0.0), torch.where(positive, infinite, 0.0)
