"""Linear bounds: a lower form walked backwards through relaxations until it meets a box (CROWN).

The same walk serves every method. IBP's margins stop at the first operator that is not affine, CROWN-IBP walks on to the
input through relaxations over IBP's boxes, and CROWN first tightens those boxes by walks of their own, one for each neuron
whose sign is still open (Zhang et al., arXiv 1811.00866 and 1906.06316; Xu et al., arXiv 2002.12920).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.ibp import IntervalWalk
from pipeline.bounds.tighten import RowCost, met, tightened
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan, Step
from pipeline.core.rounding import EXACT, Rounding
from pipeline.core.threat import Region
from pipeline.rules import rule_for
from pipeline.rules.relax import Lines, Relaxation
from pipeline.rules.weights import Facts, remembering

MEMORY = 1 << 30
"""Bytes that the bounds of one batch may take, unless a caller says otherwise."""


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
        self.reserved = 0
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
        self.size = max(r.box.center[0].numel() for r in regions)
        """The numbers of the largest node so far."""
        self.several = False
        """Whether a walk that ended at a region ended elsewhere too, so that the form there is not its whole bound."""
        self.widest = 1
        """The most coefficients of a row since this was last set to one (``tighten._measured``)."""

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
        self.size = max(self.size, box.center[0].numel())
        if self.linear.tighten:
            self.values[step.index] = box = tightened(self, step.index, box)
        return box

    def narrow(self, index: int, at: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Meet the box of a node, a batch of one, with bounds that are true of its flat entries ``at``."""
        box = self.box(index)
        ends = [end.flatten().clone() for end in self.linear.rounding.ends(box)]
        ends = [
            end.scatter(0, at, bound).reshape(box.center.shape) for end, bound in zip(ends, (lower, upper), strict=True)
        ]
        self.values[index] = met(self.linear.rounding, box, *ends)
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
        relaxations = {step.index: self.relaxed(step, exact=True) for step in steps}
        return {i: at.start[:, None] for i, at in relaxations.items() if at is not None and at.start is not None}

    def lower(
        self,
        forms: Mapping[int, LinearForm],
        *,
        alpha: Mapping[int, Tensor] | None = None,
        signs: Mapping[int, Tensor] = MappingProxyType({}),
        until: Callable[[Step], bool] = lambda step: False,
        on_visit: Callable[[Step, LinearForm], None] = lambda step, form: None,
        on_end: Callable[[Mapping[int, LinearForm]], None] = lambda ends: None,
        exact: bool = False,
    ) -> Float[Tensor, "rows batch"]:
        """Lower bounds of the sum of forms over nodes; the walk stops early at steps for which ``until`` is true.

        By step, ``alpha`` chooses slopes (see ``Relaxation``) and ``signs`` are what is assumed of an operator's inputs (see
        ``Lines.split``). ``on_visit`` gets the form over each operator's output, ``on_end`` those where the walk ends, by node.
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
            self.widest = max(self.widest, form.coeff[0, 0].numel())
            on_visit(step, form)
            if step.index in signs:
                assert isinstance(relaxation, Lines)
                relaxation = relaxation.split(signs[step.index])
            return relaxation.pull_back(form, (alpha or {}).get(step.index))

        ends = walk.backward(self.plan, forms, visit, lambda i, a, b: rounding.merge(a, b, self.box(i)))
        on_end(ends)
        self.several |= len(ends) > 1 and not self.regions.keys().isdisjoint(ends)
        parts = [
            self.regions[i].minimise(form, rounding) if i in self.regions else rounding.minimum(form, self.box(i))
            for i, form in ends.items()
        ]
        return rounding.total(parts)
