"""Boxes of neurons by optimised slopes: each end of each box is a bound of its own, with slopes of its own for what is before it.

alpha-CROWN as its authors have it, which chooses the slopes behind every intermediate bound too (Xu et al., arXiv 2011.13824,
section 3.2). The search runs on the condensed network, layer by layer; each end is then proved by a walk with these slopes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.bounds.ascent import TOGETHER, Ascent, SearchBounds
from pipeline.bounds.linear import Bounds
from pipeline.bounds.splits import SplitBounds
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Step

Record = Callable[[SplitBounds, Step, Tensor, Tensor], None]
EACH_END = Ascent(20, slope_rate=0.25)
WORK = 5e10
"""Floating point operations that the searches of one region may take, about: neurons that matter less are left as they are."""


@torch.no_grad()
def optimised(search: SearchBounds, weight: Tensor, record: Record | None = None) -> Bounds:
    """The bounds of the whole region with boxes of neurons that are at most as wide; those they come from stay as they are.

    ``weight`` (neurons) says how much each neuron matters; ``record`` gets the slopes of both
    ends. The bounds are returned unchanged where the network is not condensed.
    """
    if search.condensed is None:
        return search.split.bounds
    split = copy.copy(search.split)
    split.bounds = bounds = Bounds(split.bounds.linear, tuple(split.bounds.regions.values()), split.bounds.values)
    lower, upper = split.ends()
    affordable = _affordable(search, weight)
    for layer, (step, at, mine) in enumerate(split.layers):
        if not len(some := affordable[mine].nonzero().flatten()):
            continue
        ends = []
        for few in some.split(TOGETHER // 2):  # as many as are walked at once: slopes of all would be many numbers
            forms = search.condensed.neurons[few + mine.start].with_negated()
            part = search.before(layer, forms, lower, upper)
            all_ = torch.arange(2 * len(few), device=lower.device)
            root = part.whole(all_, lower.new_full((len(all_),), -torch.inf))
            improved = part.improved(root, EACH_END, part.start.new_full((len(all_),), torch.inf))
            if record is not None:
                record(split, step, at[few], improved.alpha)
            ends.append(_proved(split, step, at[few], improved.alpha.to(lower)).reshape(2, -1))
        low, high = torch.cat(ends, 1)
        bounds.narrow(step.args[0], at[some], low, -high)
        lower, upper = split.ends()
    return bounds


def _affordable(search: SearchBounds, weight: Tensor) -> Tensor:
    """Which neurons are bounded: of those behind others, the ones that matter most, as many as ``WORK`` allows."""
    net = search.condensed
    assert net is not None
    before = torch.cat([weight.new_full((at.stop - at.start,), float(at.start)) for at in search.layers])
    cost = 2 * EACH_END.steps * 4 * before * (net.center.numel() + before / 2)
    order = torch.where(before > 0, weight, -torch.inf).argsort(descending=True, stable=True)
    return torch.zeros_like(before, dtype=torch.bool).scatter(0, order, cost[order].cumsum(0) <= WORK) & (before > 0)


def _proved(split: SplitBounds, step: Step, at: Tensor, alpha: Tensor) -> Tensor:
    """Lower bounds of what some neurons read, then of the negated, each by the slopes in its row of ``alpha``."""
    node, bounds = step.args[0], []
    shape = split.bounds.box(node).center.shape[1:]
    for sign, slopes in zip((1.0, -1.0), alpha.chunk(2), strict=True):
        for some, mine in zip(at.split(split.rows), slopes.split(split.rows), strict=True):
            unit = alpha.new_zeros(len(some), shape.numel()).scatter(1, some[:, None], sign)
            form = LinearForm(unit.reshape(len(some), 1, *shape), unit.new_zeros(len(some), 1))
            rows = split.unassumed(torch.zeros_like(some))
            padded = nn.functional.pad(mine.clamp(0, 1), (0, split.neurons - mine.shape[1]))
            bounds.append(split.lower(rows, padded, rows.beta, start={node: form}))
    return torch.cat(bounds)
