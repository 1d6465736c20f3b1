"""How loose the boxes of IBP are, layer by layer: what a report says beside its verdicts."""

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
"""Points of each box from which the looseness of bounds is judged."""


@torch.no_grad()
def looseness(intervals: IntervalWalk, box: Interval) -> tuple[Layer, ...]:
    """The signs and radii that IBP leaves at the input of each elementwise nonlinearity, over the boxes of a batch."""
    boxes = intervals.boxes([box], keep=walk.EVERYTHING)
    reached = _reached(intervals.plan, box)
    found = (_layer(step, intervals.network.origin(step.name), boxes, reached) for step in intervals.plan.steps)
    return tuple(layer for layer in found if layer is not None)


def _layer(
    step: Step, name: str, boxes: Sequence[Interval | Tensor | None], reached: Mapping[int, float]
) -> Layer | None:
    inside, outside = boxes[step.args[0]], boxes[step.index]
    if isinstance(rule_for(step.op), Affine) or not (isinstance(inside, Interval) and isinstance(outside, Interval)):
        return None
    if len(step.args) != 1 or inside.center.shape != outside.center.shape:
        return None
    active = float((inside.center >= inside.radius).double().mean())
    inactive = float((inside.center <= -inside.radius).double().mean())
    radius = float(inside.radius.mean())
    moved = reached.get(step.args[0], 0.0)
    return Layer(
        name=name,
        kind=type(step.op).__name__,
        unstable=max(0.0, 1 - active - inactive),
        active=active,
        inactive=inactive,
        mean_radius=radius if np.isfinite(radius) else None,
        looseness=radius / moved if moved > 0 and np.isfinite(radius / moved) else None,
    )


def _reached(plan: Plan, box: Interval) -> dict[int, float]:
    """By node, half the range that the values at a few vertices of a box span, in the mean over samples and units."""
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


def numbers(network: Network, sample: Tensor) -> int:
    """How many numbers all values of one sample hold together."""
    probe = sample.to(next(network.parameters(), torch.zeros(1, dtype=torch.float64)))
    with torch.no_grad():
        values = walk.forward(network.plan(), [probe], lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    return sum(v.numel() for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1)
