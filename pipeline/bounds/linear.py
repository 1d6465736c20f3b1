"""Linear bounds: a lower form walked backwards through relaxations until it meets a box (CROWN).

The same walk serves every method. IBP's margins stop at the first operator that is not affine, CROWN-IBP walks on to the
input through relaxations over IBP's boxes, and CROWN first tightens those boxes by walks of their own, one for each neuron
whose sign is still open (Zhang et al., arXiv 1811.00866 and 1906.06316; Xu et al., arXiv 2002.12920).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.footprint import STEP_FLOPS, measured
from pipeline.bounds.ibp import IntervalWalk
from pipeline.core.floating_point import GROUP
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan, Step
from pipeline.core.rounding import EXACT, Rounding
from pipeline.core.threat import Region
from pipeline.rules import Affine, rule_for
from pipeline.rules.relax import Lines, Relaxation
from pipeline.rules.weights import Facts, remembering

MEMORY = 1 << 30
"""Bytes that the bounds of one batch may take, unless a caller says otherwise."""

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


class LinearWalk:
    """Boxes for every node of a network, and lower bounds of forms over any node, for one batch of regions at a time.

    ``tighten`` bounds the inputs of nonlinearities by backward walks; without ``meet`` such a bound replaces IBP's, of every
    entry, as other tools have it (for comparisons: it is looser). ``check`` is called at every node, and may raise to end a
    walk. ``facts`` are shared with other walks over the same weights, which must stay as they are; ``fixed`` keeps its own.
    """

    def __init__(
        self,
        network: Network,
        rounding: Rounding = EXACT,
        plan: Plan | None = None,
        *,
        tighten: bool = False,
        meet: bool = True,
        memory: int = MEMORY,
        fixed: bool = False,
        facts: Facts | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.intervals = IntervalWalk(network, rounding, plan, fixed=fixed, facts=facts, check=check)
        self.plan, self.rounding, self.tighten, self.memory = self.intervals.plan, rounding, tighten, memory
        self.meet = meet
        self.kept = 0
        """Bytes of ``memory`` that each sample's boxes and relaxations take, where that was measured."""
        self.rows: dict[int, RowCost] = {}
        """By node, what a row of a walk from it takes."""
        self.readers: dict[int, list[Step]] = {}
        for step in self.plan.steps:
            for a in step.args:
                self.readers.setdefault(a, []).append(step)

    @torch.no_grad()
    def over(self, regions: Sequence[Region]) -> Bounds:
        """All boxes over a batch of regions, one region an input of the network."""
        bounds = Bounds(self, regions)
        walk.forward(self.plan, [r.box for r in regions], bounds.enter, keep=walk.EVERYTHING)
        return bounds


class Bounds:
    """What is known of one batch: a box for each node, and a relaxation for each operator that has one.

    ``boxes`` holds what is known beforehand, by node; it is never changed.
    """

    def __init__(
        self, linear: LinearWalk, regions: Sequence[Region], boxes: Mapping[int, Interval | Tensor] | None = None
    ):
        self.linear, self.plan = linear, linear.plan
        self.regions = dict(zip(self.plan.inputs, regions, strict=True))
        self.values: dict[int, Interval | Tensor] = {i: r.box for i, r in self.regions.items()}
        self.values |= {index: getattr(owner, name) for index, owner, name in self.plan.constants}
        self.values |= boxes or {}
        self.other_slopes: dict[int, Tensor] = {}
        """Slopes, as ``alpha`` takes them, that operators would start from over backward bounds not met with IBP's."""
        self._relaxed: dict[tuple[int, bool], Relaxation | None] = {}
        self._size = max(r.box.center[0].numel() for r in regions)
        self._widest = 1

    def box(self, index: int) -> Interval:
        """The box of a node."""
        value = self.values[index]
        assert isinstance(value, Interval)
        return value

    def enter(self, step: Step, *xs: Interval | Tensor) -> Interval:
        """The box of the next node, by IBP from those before it, tightened where an operator after it would gain."""
        args = [self.values.setdefault(a, x) for a, x in zip(step.args, xs, strict=True)]
        box = self.linear.intervals.apply(step, *args)
        self.values[step.index] = box
        self._size = max(self._size, box.center[0].numel())
        if self.linear.tighten:
            self.values[step.index] = box = self._tightened(step.index, box)
        return box

    def narrow(self, index: int, at: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Meet the box of a node, a batch of one, with bounds that are true of its flat entries ``at``."""
        box = self.box(index)
        ends = [end.flatten().clone() for end in self.linear.rounding.ends(box)]
        ends = [
            end.scatter(0, at, bound).reshape(box.center.shape) for end, bound in zip(ends, (lower, upper), strict=True)
        ]
        self.values[index] = self._met(box, *ends)
        for reader in self.linear.readers.get(index, ()):
            for exact in (False, True):
                self._relaxed.pop((reader.index, exact), None)

    def relaxed(self, step: Step, *, exact: bool = False) -> Relaxation | None:
        """The operator between linear functions over the boxes as they are; ``exact`` leaves rounding out."""
        key = (step.index, exact)
        if key not in self._relaxed:
            rule = rule_for(step.op)
            assert rule is not None
            rounding = EXACT if exact else self.linear.intervals.rounding_at(step)
            with remembering(self.linear.intervals.facts):
                self._relaxed[key] = rule.relax(step.op, *(self.values[a] for a in step.args), rounding=rounding)
        return self._relaxed[key]

    def slopes(self) -> dict[int, Tensor]:
        """The slopes that relaxations leave open, where they start: (choices, 1, batch, *features) by node, as ``alpha`` of
        ``lower`` takes them; any in [0, 1] are sound."""
        steps = (step for step in self.plan.steps if step.index in self.values)
        found = {step.index: self.relaxed(step, exact=True) for step in steps}
        return {i: at.start[:, None] for i, at in found.items() if at is not None and at.start is not None}

    def lower(
        self,
        forms: Mapping[int, LinearForm],
        *,
        alpha: Mapping[int, Tensor] | None = None,
        signs: Mapping[int, Tensor] = MappingProxyType({}),
        until: Callable[[Step], bool] = lambda step: False,
        seen: Callable[[Step, LinearForm], None] = lambda step, form: None,
        ended: Callable[[Mapping[int, LinearForm]], None] = lambda ends: None,
        exact: bool = False,
    ) -> Float[Tensor, "rows batch"]:
        """Lower bounds of the sum of forms over nodes; the walk stops early at steps for which ``until`` is true.

        By step, ``alpha`` chooses slopes (see ``Relaxation``) and ``signs`` are what is assumed of an operator's inputs (see
        ``Lines.split``). ``seen`` is shown the form over each operator's output, ``ended`` those where the walk ends, by node.
        """
        rounding = EXACT if exact else self.linear.rounding

        def visit(step: Step, form: LinearForm) -> Sequence[LinearForm | None] | None:
            self.linear.intervals.check()
            if until(step):
                return None
            relaxation = self.relaxed(step, exact=exact)
            if relaxation is None:
                return None
            if form.origin and not relaxation.windowed:
                form = form.dense(self.box(step.index).center.shape[1:])
            self._widest = max(self._widest, form.coeff[0, 0].numel())
            seen(step, form)
            if step.index in signs:
                assert isinstance(relaxation, Lines)
                relaxation = relaxation.split(signs[step.index])
            return relaxation.pull_back(form, (alpha or {}).get(step.index))

        ends = walk.backward(self.plan, forms, visit, lambda i, a, b: rounding.merge(a, b, self.box(i)))
        ended(ends)
        parts = [
            self.regions[i].minimise(form, rounding) if i in self.regions else rounding.minimum(form, self.box(i))
            for i, form in ends.items()
        ]
        return rounding.total(parts)

    def _tightened(self, index: int, box: Interval) -> Interval:
        """The box met with backward bounds of every entry that some reader would want tighter."""
        wanted = torch.zeros_like(box.radius, dtype=torch.bool)
        for reader in self.linear.readers.get(index, ()):
            rule = rule_for(reader.op)
            if rule is not None and not isinstance(rule, Affine):
                wanted |= rule.loose(reader.op, box) | (not self.linear.meet)
        if not bool(wanted.any()):
            return box
        lower, upper = (end.clone() for end in self.linear.rounding.ends(box))
        for tile, origin in tiles(wanted.shape[2:]):
            self._replace(index, wanted[tile], lower[tile], upper[tile], origin)
        own = self.linear.rounding.enclose(lower, upper)
        if not self.linear.meet:
            return own
        for reader in self.linear.readers[index]:
            self._suggest(reader, own)
        return self._met(box, lower, upper)

    def _suggest(self, reader: Step, own: Interval) -> None:
        """Remember the slopes that an operator would start from over the backward bounds of its input."""
        rule = rule_for(reader.op)
        if rule is None or isinstance(rule, Affine) or len(reader.args) > 1:
            return
        relaxation = rule.relax(reader.op, own, rounding=self.linear.intervals.rounding_at(reader))
        if relaxation is not None and relaxation.start is not None:
            self.other_slopes[reader.index] = relaxation.start[:, None]

    def _replace(self, index: int, wanted: Tensor, lower: Tensor, upper: Tensor, origin: tuple[int, ...]) -> None:
        """Put backward bounds into ``lower`` and ``upper``, views of one tile of the node, where ``wanted``."""
        batch, shape = len(wanted), wanted.shape[1:]  # of one number a sample, no axes
        flat = wanted.reshape(batch, -1)
        count = int(flat.sum(1).max())
        order = flat.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
        start = 0
        while start < count:
            picked = order[:, start : start + self._room(index, batch)]
            start += picked.shape[1]

            def ends(picked: Tensor = picked) -> Tensor:
                rows = picked.shape[1]
                coeff = torch.zeros(2 * rows, batch, shape.numel(), dtype=lower.dtype, device=lower.device)
                coeff[:rows].scatter_(2, picked.T[..., None], 1.0)
                coeff[rows:] = -coeff[:rows]
                form = LinearForm(coeff.reshape(*coeff.shape[:2], *shape), torch.zeros_like(coeff[..., 0]), origin)
                return self.lower({index: form})

            for side, found in zip((lower, upper), self._measured(index, ends).chunk(2), strict=True):
                end = found.T if side is lower else -found.T
                side.copy_(side.reshape(batch, -1).scatter(1, picked, end).reshape(side.shape))

    def _room(self, index: int, batch: int) -> int:
        """How many entries of a node are bounded at once: whole groups of rows, a lower and an upper one each."""
        cost = self.linear.rows.get(index, RowCost(copies=16, flops=0, widest=self._size))
        memory = max(0, self.linear.memory - batch * self.linear.kept)
        rows = min(memory // (8 * cost.copies * batch * cost.widest), STEP_FLOPS // max(batch * cost.flops, 1)) // 2
        return rows // (GROUP // 2) * (GROUP // 2) if rows >= GROUP // 2 else max(1, rows)

    def _measured(self, index: int, ends: Callable[[], Tensor]) -> Tensor:
        """``ends()``; the first time at a node it is measured, later only how wide windows grow."""
        self._widest = 1
        known = self.linear.rows.get(index)
        if known is None:
            found, cost = measured(ends)
            numbers = found.numel() * self._widest
            known = RowCost(-(-cost.peak // (8 * numbers)), -(-cost.flops // found.numel()), self._widest)
        else:
            found = ends()
        self.linear.rows[index] = replace(known, widest=max(known.widest, self._widest))
        return found

    def _met(self, box: Interval, lower: Tensor, upper: Tensor) -> Interval:
        """``[lower, upper]`` met with the box: a bound that is NaN says nothing, ends that cross prove a fault and become NaN."""
        ends = self.linear.rounding.ends(box)
        lower, upper = torch.fmax(ends[0], lower), torch.fmin(ends[1], upper)
        new = self.linear.rounding.enclose(lower, upper)
        smaller = new.radius < box.radius
        crossed = torch.where(lower <= upper, 0.0, torch.nan)
        return Interval(
            torch.where(smaller, new.center, box.center), torch.where(smaller, new.radius, box.radius) + crossed
        )
