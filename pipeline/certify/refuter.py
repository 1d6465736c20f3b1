"""Bounds of the rows of a property over boxes: which conjunctions of an unsafe set they refute.

A conjunction is refuted over a box once one of its constraints ``c.y <= t`` is shown never to hold, ``min (c.y - t) > 0``, or
one of the strict ones, ``c.y < t``, for which ``min (c.y - t) >= 0`` is enough. Bounds are those of ``methods.py``, in the
arithmetic of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.alpha import Search
from pipeline.bounds.ends import exact_ends
from pipeline.bounds.footprint import FILL, Need, need
from pipeline.bounds.linear import MEMORY, Bounds, LinearWalk
from pipeline.bounds.margins import ends_tail
from pipeline.certify.batches import require_memory
from pipeline.certify.boxes import Subdomain, inputs_of, outputs_of, whole
from pipeline.certify.constraints import Forms, never_negative
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network
from pipeline.core.rounding import Rounding
from pipeline.methods import METHODS, BoundingMethod, Improve, bounding, up_to
from pipeline.rules.weights import Facts
from pipeline.system.allocator import give_back_large_blocks
from pipeline.vnnlib import Property

BATCH = 256
"""Boxes bounded at once at most."""


@dataclass(eq=False)
class RememberingRegion:
    """A box that remembers the last form it was asked about."""

    box: Interval
    last: LinearForm | None = None

    def minimise(self, form: LinearForm, rounding: Rounding) -> Tensor:
        self.last = form
        return rounding.minimum(form, self.box)

    def __getitem__(self, samples: slice | Tensor) -> RememberingRegion:
        return RememberingRegion(self.box[samples])


class Refuter:
    """Refutes the unsafe boxes of a property of a float64 network, by methods up to the one asked for."""

    def __init__(
        self,
        network: Network,
        question: Property,
        rounding: Rounding,
        *,
        method: str = "auto",
        batch: int = BATCH,
        memory: int | None = None,
        search: Search | None = None,
    ):
        self.network, self.question, self.rounding, self.batch = network, question, rounding, batch
        self.methods = tuple(METHODS[name] for name in bounding(up_to(method)))
        self.search = search or Search()
        self.memory, self.fixed = memory, 2 * sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        room, facts = max(0, int(FILL * ((memory or MEMORY) - self.fixed))), Facts()
        self.loose = LinearWalk(network, rounding, memory=room, facts=facts)
        self.tight = LinearWalk(network, rounding, tighten=True, memory=room, facts=facts)
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.shapes = [tuple(d or 1 for d in port.shape[1:]) for port in network.inputs]
        with torch.no_grad():
            self.outputs = [y.shape[1:] for y in outputs_of(network, self._inputs(torch.zeros(1, question.inputs)))]
        self.forms = Forms(question)
        self._needs: dict[Improve, Need] = {}

    def fit(self) -> None:
        """As many boxes at once as memory allows. Raises UsageError (2) where it does not hold one."""
        if not self.question.cases:
            return
        one = self.need(self.methods[-1])
        if self.memory is not None:
            give_back_large_blocks()
            require_memory(self.memory, self.fixed, one.least, self.methods[-1].name)
        for walk in (self.loose, self.tight):
            walk.memory, walk.kept = max(walk.memory, one.least), one.sample
        self.batch = one.samples(self.loose.memory, max(len(c.unsafe) for c in self.question.cases), self.batch)

    def need(self, method: BoundingMethod) -> Need:
        """What one box takes of memory and work, measured once for each way to improve on a walk."""
        if method.improve not in self._needs:
            first = [whole(0, self.question.cases[0])]
            regions, forms = self.regions(first), self.rows(first)[0]
            quick = replace(self.search, steps=1, until_proved=False)

            def lower(bounds: Bounds, rows: int) -> Tensor:
                # One row as often as it takes: a property may have fewer.
                coeff, const = (t[:1].expand(rows, *t.shape[1:]) for t in (forms.coeff, forms.const))
                part = self.at_outputs(LinearForm(coeff, const), bounds)
                return method.improve(bounds, part, bounds.lower(part), quick)

            self._needs[method.improve] = need(lambda: self.loose.over(regions), lower, self.loose.memory)
        return self._needs[method.improve]

    def bound(
        self, patches: Sequence[Subdomain], methods: Sequence[BoundingMethod]
    ) -> tuple[list[Subdomain], np.ndarray]:
        """The patches that stay open, with fewer conjunctions, and how much each input costs their bounds."""
        left, cost = list(patches), np.zeros((len(patches), self.question.inputs))
        for tighten, group in (
            (False, [m for m in methods if m.over != "tightened"]),
            (True, [m for m in methods if m.over == "tightened"]),
        ):
            if not group or not left:
                continue
            regions = self.regions(left)
            bounds = (self.tight if tighten else self.loose).over(regions)
            forms, owner, strict = self.rows(left)
            least = torch.full(owner.shape, -torch.inf, dtype=torch.float64, device=self.device)
            for method in group:
                least = torch.fmax(least, self.least(bounds, forms, least, method))
            cost = self._cost(regions, len(left))
            proved = (torch.isfinite(least) & (least > 0)).cpu().numpy()
            if (tied := strict & ~proved & (owner >= 0)).any():
                proved[tied] = self._at_a_tie(forms, bounds, tied)
            kept = []
            for b, patch in enumerate(left):
                refuted = set(owner[proved[:, b], b].tolist())
                still = tuple(a for a in patch.open if a not in refuted)
                kept.append(replace(patch, open=still))
            keep = [b for b, patch in enumerate(kept) if patch.open]
            left, cost = [kept[b] for b in keep], cost[keep]
        return left, cost

    @torch.no_grad()
    def _at_a_tie(self, forms: LinearForm, bounds: Bounds, rows: np.ndarray) -> np.ndarray:
        """Which of these rows are never negative: by the outputs' own ends, whose zeros no outward rounding moves."""
        ends, count = exact_ends(self.loose.plan, bounds.values, self.rounding), forms.const.shape[1]
        if len(ends) < len(self.outputs):
            return np.zeros(int(rows.sum()), bool)
        lower, upper = (
            torch.cat([y[side].expand(count, *y[side].shape[1:]).flatten(1) for y in ends], 1).cpu().numpy()
            for side in (0, 1)
        )
        of = np.nonzero(rows)[1]
        return never_negative(forms.coeff.cpu().numpy()[rows], forms.const.cpu().numpy()[rows], lower[of], upper[of])

    @torch.no_grad()
    def least(self, bounds: Bounds, forms: LinearForm, known: Tensor, method: BoundingMethod) -> Tensor:
        """The lower bound of every row by one method, as many rows at once as memory allows."""
        size, parts = self.need(method).rows(bounds.linear.memory, forms.const.shape[1]), []
        for start in range(0, len(forms.const), size):
            at = slice(start, start + size)
            part = self.at_outputs(LinearForm(forms.coeff[at], forms.const[at]), bounds)
            walked = bounds.lower(part, until=ends_tail if method.over == "tail" else lambda step: False)
            parts.append(method.improve(bounds, part, torch.fmax(known[at], walked), self.search))
        return torch.cat(parts)

    def rows(self, patches: Sequence[Subdomain]) -> tuple[LinearForm, np.ndarray, np.ndarray]:
        """The rows of every patch on the network's device, which conjunction each belongs to, and which are strict."""
        forms, owner, strict = self.forms(patches)
        return LinearForm(forms.coeff.to(self.device), forms.const.to(self.device)), owner, strict

    def at_outputs(self, forms: LinearForm, bounds: Bounds) -> dict[int, LinearForm]:
        """The form over all outputs as one form for each node that gives some; the constant is counted once."""
        found: dict[int, LinearForm] = {}
        start, const = 0, forms.const
        for index, shape in zip(self.loose.plan.outputs, self.outputs, strict=True):
            part = forms.coeff[:, :, start : start + shape.numel()].unflatten(2, shape or (1,))
            form = LinearForm(part if shape else part[..., 0], const)
            found[index] = self.rounding.merge(found[index], form, bounds.box(index)) if index in found else form
            start, const = start + shape.numel(), torch.zeros_like(const)
        return found

    def regions(self, patches: Sequence[Subdomain]) -> list[RememberingRegion]:
        lower, upper = (
            self._inputs(torch.from_numpy(np.stack([getattr(p, end) for p in patches]))) for end in ("lower", "upper")
        )
        return [RememberingRegion(self.rounding.enclose(a, b)) for a, b in zip(lower, upper, strict=True)]

    def _inputs(self, flat: Tensor) -> list[Tensor]:
        """A batch of flat vectors as the inputs of the network."""
        return inputs_of(flat.double().to(self.device), self.shapes)

    def _cost(self, regions: Sequence[RememberingRegion], batch: int) -> np.ndarray:
        """``sum over rows of |coefficient| * radius`` for every input."""
        parts = []
        for region in regions:
            cost = region.box.radius
            if region.last is not None and region.last.coeff.shape[1] == batch:
                cost = cost * region.last.coeff.abs().sum(0)
            parts.append(cost.flatten(1))
        return torch.cat(parts, 1).cpu().numpy()
