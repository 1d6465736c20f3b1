"""Lower bounds of the rows of a specification over a batch of regions, by any one method: the engine of every proof."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.alpha import Search
from pipeline.bounds.footprint import Need, need
from pipeline.bounds.linear import MEMORY, Bounds, LinearWalk
from pipeline.bounds.specification import Specification
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network, Plan, Step
from pipeline.core.ops import AffineBN, BatchNorm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.core.threat import Region
from pipeline.methods import IBP, METHODS
from pipeline.rules import Affine, rule_for
from pipeline.rules.weights import Facts

BATCHED = (AffineBN, *get_args(BatchNorm))
"""Operators whose meaning depends on the batch while they train."""
SMALL, SMALL_BYTES = 8 * 64, 1 << 28
"""More bytes a number of the batch than any walk takes for a row, and what may be taken without measuring."""


def ends_tail(step: Step) -> bool:
    """Whether the last-layer merge stops before this operator: it is not affine, or its statistics are the batch's own."""
    return not isinstance(rule_for(step.op), Affine) or (isinstance(step.op, BATCHED) and step.op.training)


def affine_tail(plan: Plan) -> frozenset[int]:
    """The nodes between the outputs and the first operators that are not affine, these and their inputs left out."""
    by_index = {s.index: s for s in plan.steps}
    tail, pending = set[int](), [*plan.outputs]
    while pending:
        node = pending.pop()
        if node in tail:
            continue
        tail.add(node)
        if node in by_index and isinstance(rule_for(by_index[node].op), Affine):
            pending.extend(by_index[node].args)
    return frozenset(tail)


class RowBounds:
    """Bounds of forms over the outputs of one network; ``lower(regions, specification)`` gives one for every row and sample.

    ``method`` is a name in ``METHODS``, which says how far the walk goes and over which boxes; a method's bounds are met, row by
    row, with those of the methods before it that share its boxes. ``memory`` bounds the bytes of one batch: rows are taken in
    groups that fit, however many there are. ``fixed`` promises that the weights stay as they are, so that facts of them are
    computed once; ``facts`` shares these with other bounds of the same network. ``check`` is called at every
    node, and may raise to end a walk.
    """

    def __init__(
        self,
        network: Network,
        rounding: Rounding = EXACT,
        *,
        method: str = IBP,
        plan: Plan | None = None,
        memory: int = MEMORY,
        search: Search | None = None,
        meet: bool = True,
        fixed: bool = False,
        facts: Facts | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.method, self.search = METHODS[method], search or Search()
        self.linear = LinearWalk(
            network,
            rounding,
            plan,
            tighten=self.method.over == "tightened",
            meet=meet,
            memory=memory,
            fixed=fixed,
            facts=facts,
            check=check,
        )
        self.tail = affine_tail(self.linear.plan)
        self._need: Need | None = None

    @torch.no_grad()
    def lower(self, regions: Sequence[Region] | Bounds, specification: Specification) -> Float[Tensor, "rows batch"]:
        """Lower bounds of the rows over one region an input, or over what is known of them; what is not finite proves nothing."""
        bounds = regions if isinstance(regions, Bounds) else self.over(regions)
        size = self._at_once(bounds, specification)
        parts = (specification[start : start + size] for start in range(0, len(specification), size))
        return torch.cat([self._lower(bounds, part) for part in parts])

    @torch.no_grad()
    def over(self, regions: Sequence[Region], *, keep: bool = False) -> Bounds:
        """What forms are bounded over; where the method stops at the affine tail, of that alone unless all is to be kept."""
        if self.method.over != "tail" or keep:
            return self.linear.over(regions)
        boxes = self.linear.intervals.boxes([region.box for region in regions], keep=self.tail)
        return Bounds(self.linear, regions, {i: box for i, box in enumerate(boxes) if box is not None})

    def at_outputs(self, form: LinearForm, bounds: Bounds) -> dict[int, LinearForm]:
        """A form over all outputs in a row as one form for each node that gives some; the constant is counted once."""
        forms: dict[int, LinearForm] = {}
        start, const = 0, form.const
        for index in self.linear.plan.outputs:
            box = bounds.box(index)
            shape = box.center.shape[1:]
            coeff = form.coeff[:, :, start : start + shape.numel()]
            part = LinearForm(coeff.reshape(*coeff.shape[:2], *shape), const)
            forms[index] = self.linear.rounding.merge(forms[index], part, box) if index in forms else part
            start, const = start + shape.numel(), torch.zeros_like(const)
        return forms

    def need(self, regions: Sequence[Region]) -> Need:
        """What bounds take of memory and work, measured once, on the first sample of the regions."""
        if self._need is None:
            quick = copy.copy(self)
            quick.search = replace(self.search, steps=1, until_proved=False)
            quick.linear = copy.copy(self.linear)
            quick.linear.tighten = False
            one = [region[:1] for region in regions]
            zeros = torch.zeros(1, 1, 1, dtype=torch.float64, device=one[0].box.center.device)
            row = Specification(zeros.long(), zeros, zeros[0])
            self._need = need(
                lambda: quick.over(one),
                lambda bounds, rows: quick._lower(bounds, row.repeated(rows)),
                self.linear.memory,
                besides=self._tightening(one),
            )
            self.linear.reserved = self._need.sample
        return self._need

    def _tightening(self, one: Sequence[Region]) -> int:
        """Bytes that tightening the boxes of one sample takes beside the walks themselves: ends, their order, other slopes."""
        if not self.linear.tighten:
            return 0
        boxes = self.linear.intervals.boxes([region.box for region in one], keep=walk.EVERYTHING)
        each = [box.center.nbytes for box in boxes if isinstance(box, Interval)]
        return 12 * max(each) + sum(each)

    def _at_once(self, bounds: Bounds, specification: Specification) -> int:
        """How many rows are bounded together: as many as memory allows."""
        rows, batch = specification.const.shape
        numbers = sum(v.center.numel() for v in bounds.values.values() if isinstance(v, Interval))
        # What is small in any case need not be measured.
        if SMALL * rows * numbers < min(self.linear.memory, SMALL_BYTES):
            return max(rows, 1)
        return self.need([*bounds.regions.values()]).rows(self.linear.memory, batch)

    def _lower(self, bounds: Bounds, rows: Specification) -> Float[Tensor, "rows batch"]:
        """Some rows, by the method and, where they share its boxes, by those before it."""
        boxes = [bounds.box(index) for index in self.linear.plan.outputs]
        form = rows.form(sum(box.center[0].numel() for box in boxes), boxes[0].center.dtype)
        forms, tail = self.at_outputs(form, bounds), self.method.over == "tail"
        least = bounds.lower(forms, until=ends_tail if tail else lambda step: False)
        if self.linear.meet and not tail:
            least = torch.fmax(least, bounds.lower(forms, until=ends_tail))
        if bounds.other_slopes:
            least = torch.fmax(least, bounds.lower(forms, alpha=bounds.other_slopes))
        return self.method.improve(bounds, forms, least, self.search)
