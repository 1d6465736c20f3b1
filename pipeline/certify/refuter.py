"""Refutes conjunctions of a property's unsafe set by bounds, box by box.

A conjunction is refuted over a box if one of its constraints ``c.y <= t`` holds nowhere in it, that is ``min (c.y - t) > 0``;
for a strict one, ``c.y < t``, ``min (c.y - t) >= 0`` is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.ends import exact_ends
from pipeline.bounds.linear import Bounds
from pipeline.bounds.rows import RowBounds
from pipeline.bounds.specification import Specification
from pipeline.certify.clipping import clipped
from pipeline.certify.engine import Engine
from pipeline.certify.subdomain import Constraints, Subdomain, inputs_of, never_negative, whole
from pipeline.choices import Mode
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Network
from pipeline.core.rounding import Rounding
from pipeline.methods import METHODS, BoundingMethod, bounding, up_to
from pipeline.vnnlib import Property

BATCH = 256
"""The most boxes bounded at once."""


@dataclass(eq=False)
class RememberingRegion:
    """A box that keeps the last form that was minimised over it, and its minimum."""

    box: Interval
    last: LinearForm | None = None
    least: Tensor | None = None

    def minimise(self, form: LinearForm, rounding: Rounding) -> Tensor:
        self.last, self.least = form, rounding.minimum(form, self.box)
        return self.least

    def __getitem__(self, samples: slice | Tensor) -> RememberingRegion:
        return RememberingRegion(self.box[samples])


class Refuter:
    """Refutes the unsafe boxes of a property of a float64 network, by all methods up to ``method``."""

    def __init__(
        self,
        network: Network,
        question: Property,
        arithmetic: Mode,
        *,
        kernels: Mapping[str, tuple[float, float]] | None = None,
        method: str = "auto",
        batch: int = BATCH,
        memory: int | None = None,
    ):
        self.question, self.batch = question, batch
        self.methods = tuple(METHODS[name] for name in bounding(up_to(method)))
        self.engine = Engine(RowBounds, network, arithmetic, self._one, memory=memory, kernels=kernels)
        self.shapes = [tuple(d or 1 for d in port.shape[1:]) for port in network.inputs]
        self.constraints = Constraints(question)
        self.strict = any(c.strict for case in question.cases for conjunction in case.unsafe for c in conjunction)

    def fit(self) -> None:
        """Set ``batch`` to as many boxes as fit into memory. Raises UsageError (2) where not even one does."""
        if self.question.cases:
            most = max(len(case.unsafe) for case in self.question.cases)
            self.engine.require(self.methods[-1].name)
            self.batch = self.engine.samples(self.methods[-1].name, most, self.batch)

    def _one(self) -> list[RememberingRegion]:
        return self.regions([whole(0, self.question.cases[0])])

    def bound(self, subdomains: Sequence[Subdomain], method: BoundingMethod) -> tuple[list[Subdomain], np.ndarray]:
        """The subdomains that stay open, clipped, with their open conjunctions, and the cost of each input to their bounds.

        Costs are ``sum over rows of |coefficient| * radius``: (open subdomains, inputs).
        """
        self.engine.need(method.name)
        bounds, regions, rows = self.engine.bounds(method.name), self.regions(subdomains), self.rows(subdomains)
        over = bounds.over(regions, keep=self.strict)
        for region in regions:
            region.last = region.least = None  # what boxes were tightened by is no form of a row
        least = bounds.lower(over, rows)
        proved = (torch.isfinite(least) & (least > 0)).cpu().numpy()
        assert rows.conjunction is not None
        assert rows.strict is not None
        conjunction = rows.conjunction.cpu().numpy()
        if (tied := rows.strict.cpu().numpy() & ~proved & (conjunction >= 0)).any():
            proved[tied] = self._never_negative(rows, over, tied)
        still_open, at = [], []
        is_open = np.zeros((len(subdomains), max(len(one.open) for one in subdomains)), bool)
        for b, subdomain in enumerate(subdomains):
            refuted = set(conjunction[proved[:, b], b].tolist())
            is_open[b, [i for i in range(len(subdomain.open)) if i not in refuted]] = True
            if conjunctions := tuple(a for i, a in enumerate(subdomain.open) if i not in refuted):
                still_open.append(replace(subdomain, open=conjunctions))
                at.append(b)
        cost = self._cost(regions, len(subdomains))[at]
        if at and len(regions) == 1 and not over.several and not method.searches:
            still_open = self._clipped(regions[0], conjunction, is_open, still_open, at)
        return still_open, cost

    def _clipped(
        self,
        region: RememberingRegion,
        conjunction: np.ndarray,
        is_open: np.ndarray,
        left: list[Subdomain],
        at: list[int],
    ) -> list[Subdomain]:
        """What is ``left``, at these places of the batch, without points that violate no open conjunction.

        ``conjunction`` numbers the one that each row is about, and ``is_open`` says by number which are open.
        """
        if region.last is None or region.least is None or region.last.coeff.shape[:2] != conjunction.shape:
            return left
        coeff, least = region.last.coeff.flatten(2).cpu().numpy()[:, at], region.least.cpu().numpy()[:, at]
        ends = np.stack([one.lower for one in left]), np.stack([one.upper for one in left])
        boxes = clipped(coeff, least, conjunction[:, at], is_open[at], *ends)
        return [replace(one, lower=low, upper=high) for one, low, high in zip(left, *boxes, strict=True)]

    @torch.no_grad()
    def _never_negative(self, rows: Specification, bounds: Bounds, at: np.ndarray) -> np.ndarray:
        """Whether each row in the mask ``at`` is never negative, by exact ends of the outputs.

        Outward rounding moves a bound of exactly zero below zero; it does not move these ends where they are zero.
        """
        plan, count = bounds.plan, rows.const.shape[1]
        ends = exact_ends(plan, bounds.values, bounds.linear.rounding)
        if len(ends) < len(plan.outputs):
            return np.zeros(int(at.sum()), bool)
        lower, upper = (
            torch.cat([y[side].expand(count, *y[side].shape[1:]).flatten(1) for y in ends], 1).cpu().numpy()
            for side in (0, 1)
        )
        form, of = rows.form(self.question.outputs), np.nonzero(at)[1]
        return never_negative(form.coeff.cpu().numpy()[at], form.const.cpu().numpy()[at], lower[of], upper[of])

    def rows(self, subdomains: Sequence[Subdomain]) -> Specification:
        """The rows of the open conjunctions of every subdomain, on the network's device."""
        return self.constraints(subdomains).to(self.engine.device)

    def regions(self, subdomains: Sequence[Subdomain]) -> list[RememberingRegion]:
        """The boxes of the subdomains: for each input of the network, a batch of boxes."""
        lower, upper = (
            inputs_of(torch.from_numpy(np.stack(ends)).double().to(self.engine.device), self.shapes)
            for ends in ([p.lower for p in subdomains], [p.upper for p in subdomains])
        )
        enclose = self.engine.bounds(self.methods[0].name).linear.rounding.enclose
        return [RememberingRegion(enclose(a, b)) for a, b in zip(lower, upper, strict=True)]

    def _cost(self, regions: Sequence[RememberingRegion], batch: int) -> np.ndarray:
        """``sum over rows of |coefficient| * radius`` for every input: (batch, inputs)."""
        parts = []
        for region in regions:
            cost = region.box.radius
            if region.last is not None and region.last.coeff.shape[1] == batch:
                cost = cost * region.last.coeff.abs().sum(0)
            parts.append(cost.flatten(1))
        return torch.cat(parts, 1).cpu().numpy()
