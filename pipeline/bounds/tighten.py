"""Boxes tightened by backward walks: every entry of a node that some operator after it would want closer (CROWN).

Entries are bounded as many at once as memory has room for, those of one tile of an image together, since their windows overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.bounds.footprint import STEP_FLOPS, measured
from pipeline.core.floating_point import GROUP
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Step
from pipeline.core.rounding import Rounding
from pipeline.rules import Affine, rule_for

TILE = 8
"""Into how many tiles each axis of an image is cut, at most, none shorter than 4: rows of one tile share a window."""


def tiles(size: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[int, ...]]]:
    """The tiles of an image of that size (none: one tile without a window), as slices behind batch and channels.

    Those in the middle come first: nothing cuts their windows, and by the first rows it is judged how many fit.
    """
    sides = [max(4, -(-n // TILE)) for n in size]
    corners = itertools.product(*(range(0, n, side) for n, side in zip(size, sides, strict=True)))
    middle = [(n - side) / 2 for n, side in zip(size, sides, strict=True)]
    for corner in sorted(corners, key=lambda c: max((abs(a - b) for a, b in zip(c, middle, strict=True)), default=0)):
        spans = (slice(c, c + side) for c, side in zip(corner, sides, strict=True))
        yield (slice(None), slice(None), *spans) if corner else (slice(None),), corner


@dataclass(frozen=True)
class RowCost:
    """What a row takes: ``copies`` tensors as wide as its coefficients grow (``widest`` numbers), and ``flops`` at once."""

    copies: int
    flops: int
    widest: int


class Tightened(Protocol):
    """What is known of a batch (``linear.Bounds``), as far as tightening reads and changes it."""

    linear: Any
    size: int
    widest: int
    other_slopes: dict[int, Tensor]

    def lower(self, forms: Mapping[int, LinearForm]) -> Tensor:
        """Lower bounds of the sum of forms over nodes, (rows, batch)."""


def tightened(bounds: Tightened, index: int, box: Interval) -> Interval:
    """The box met with backward bounds of every entry that some reader would want tighter."""
    loose = torch.zeros_like(box.radius, dtype=torch.bool)
    for reader in bounds.linear.readers.get(index, ()):
        rule = rule_for(reader.op)
        if rule is not None and not isinstance(rule, Affine):
            loose |= rule.loose(reader.op, box) | (not bounds.linear.meet)
    if not bool(loose.any()):
        return box
    lower, upper = (end.clone() for end in bounds.linear.rounding.ends(box))
    for tile, origin in tiles(loose.shape[2:]):
        _replace(bounds, index, loose[tile], lower[tile], upper[tile], origin)
    own = bounds.linear.rounding.enclose(lower, upper)
    if not bounds.linear.meet:
        return own
    for reader in bounds.linear.readers[index]:
        _suggest(bounds, reader, own)
    return met(bounds.linear.rounding, box, lower, upper)


def _suggest(bounds: Tightened, reader: Step, own: Interval) -> None:
    """Remember the slopes that an operator would start from over the backward bounds of its input."""
    rule = rule_for(reader.op)
    if rule is None or isinstance(rule, Affine) or len(reader.args) > 1:
        return
    relaxation = rule.relax(reader.op, own, rounding=bounds.linear.intervals.rounding_at(reader))
    if relaxation is not None and relaxation.start is not None:
        bounds.other_slopes[reader.index] = relaxation.start[:, None]


def _replace(
    bounds: Tightened, index: int, loose: Tensor, lower: Tensor, upper: Tensor, origin: tuple[int, ...]
) -> None:
    """Put backward bounds into ``lower`` and ``upper``, views of one tile of the node, where ``loose``."""
    batch, shape = len(loose), loose.shape[1:]  # of one number a sample, no axes
    flat = loose.reshape(batch, -1)
    count = int(flat.sum(1).max())
    order = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    start = 0
    while start < count:
        picked = order[:, start : start + _room(bounds, index, batch)]
        start += picked.shape[1]

        def ends(picked: Tensor = picked) -> Tensor:
            rows = picked.shape[1]
            coeff = torch.zeros(2 * rows, batch, shape.numel(), dtype=lower.dtype, device=lower.device)
            coeff[:rows].scatter_(2, picked.T[..., None], 1.0)
            coeff[rows:] = -coeff[:rows]
            form = LinearForm(coeff.reshape(*coeff.shape[:2], *shape), torch.zeros_like(coeff[..., 0]), origin)
            return bounds.lower({index: form})

        for side, bound in zip((lower, upper), _measured(bounds, index, ends).chunk(2), strict=True):
            end = bound.T if side is lower else -bound.T
            side.copy_(side.reshape(batch, -1).scatter(1, picked, end).reshape(side.shape))


def _room(bounds: Tightened, index: int, batch: int) -> int:
    """How many entries of a node are bounded at once: whole groups of rows, a lower and an upper one each."""
    cost = bounds.linear.rows.get(index, RowCost(copies=16, flops=0, widest=bounds.size))
    memory = max(0, bounds.linear.memory - batch * bounds.linear.reserved)
    rows = min(memory // (8 * cost.copies * batch * cost.widest), STEP_FLOPS // max(batch * cost.flops, 1)) // 2
    return rows // (GROUP // 2) * (GROUP // 2) if rows >= GROUP // 2 else max(1, rows)


def _measured(bounds: Tightened, index: int, ends: Callable[[], Tensor]) -> Tensor:
    """``ends()``; the first time at a node its cost is measured, later only how wide windows grow."""
    bounds.widest = 1
    of_row = bounds.linear.rows.get(index)
    if of_row is None:
        result, cost = measured(ends)
        numbers = result.numel() * bounds.widest
        of_row = RowCost(-(-cost.peak // (8 * numbers)), -(-cost.flops // result.numel()), bounds.widest)
    else:
        result = ends()
    bounds.linear.rows[index] = replace(of_row, widest=max(of_row.widest, bounds.widest))
    return result


def met(rounding: Rounding, box: Interval, lower: Tensor, upper: Tensor) -> Interval:
    """``[lower, upper]`` met with the box: a bound that is NaN says nothing, ends that cross prove a fault and become NaN."""
    ends = rounding.ends(box)
    lower, upper = torch.fmax(ends[0], lower), torch.fmin(ends[1], upper)
    new = rounding.enclose(lower, upper)
    smaller = new.radius < box.radius
    crossed = torch.where(lower <= upper, 0.0, torch.nan)
    return Interval(
        torch.where(smaller, new.center, box.center), torch.where(smaller, new.radius, box.radius) + crossed
    )
