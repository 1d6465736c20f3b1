"""How loose the boxes of IBP are, layer by layer, as reports show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.interval import Interval
from pipeline.core.network import Network, Plan, Step
from pipeline.results import Layer
from pipeline.rules import Affine, rule_for

VERTICES = 4
"""Vertices of each box at which values are computed, to compare with its bounds."""


@torch.no_grad()
def looseness(intervals: IntervalWalk, box: Interval) -> tuple[Layer, ...]:
    """For each elementwise nonlinearity, the signs and radii of its input by IBP, over the boxes of a batch."""
    boxes = intervals.boxes([box], keep=walk.EVERYTHING)
    ranges = _half_ranges(intervals.plan, box)
    layers = (_layer(step, intervals.network.origin(step.name), boxes, ranges) for step in intervals.plan.steps)
    return tuple(layer for layer in layers if layer is not None)


def _layer(
    step: Step, name: str, boxes: Sequence[Interval | Tensor | None], ranges: Mapping[int, float]
) -> Layer | None:
    inside, outside = boxes[step.args[0]], boxes[step.index]
    if isinstance(rule_for(step.op), Affine) or not (isinstance(inside, Interval) and isinstance(outside, Interval)):
        return None
    if len(step.args) != 1 or inside.center.shape != outside.center.shape:
        return None
    active = float((inside.center >= inside.radius).double().mean())
    inactive = float((inside.center <= -inside.radius).double().mean())
    radius = float(inside.radius.mean())
    half_range = ranges.get(step.args[0], 0.0)
    return Layer(
        name=name,
        kind=type(step.op).__name__,
        unstable=max(0.0, 1 - active - inactive),
        active=active,
        inactive=inactive,
        mean_radius=radius if np.isfinite(radius) else None,
        looseness=radius / half_range if half_range > 0 and np.isfinite(radius / half_range) else None,
    )


def _half_ranges(plan: Plan, box: Interval) -> dict[int, float]:
    """By node, half the range of its values at a few vertices of the box, averaged over samples and units."""
    signs = torch.Generator().manual_seed(0)
    lowest: dict[int, Tensor] = {}
    highest: dict[int, Tensor] = {}
    for _ in range(VERTICES // 2):
        sign = torch.randint(0, 2, box.center.shape, generator=signs).to(box.center) * 2 - 1
        for vertex in (box.center + sign * box.radius, box.center - sign * box.radius):
            values = walk.forward(plan, [vertex], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
            for index in {step.args[0] for step in plan.steps if len(step.args) == 1}:
                value = values[index]
                if isinstance(value, Tensor):
                    lowest[index] = value if index not in lowest else torch.minimum(lowest[index], value)
                    highest[index] = value if index not in highest else torch.maximum(highest[index], value)
    return {index: float((highest[index] - low).double().mean()) / 2 for index, low in lowest.items()}


def value_count(network: Network, sample: Tensor) -> int:
    """How many entries all values of one sample have together."""
    probe = sample.to(next(network.parameters(), torch.zeros(1, dtype=torch.float64)))
    with torch.no_grad():
        values = walk.forward(network.plan(), [probe], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    return sum(v.numel() for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1)
