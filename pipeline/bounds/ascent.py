"""The search for slopes and multipliers of parts of a region, whose bounds a walk that accounts for rounding then proves.

It runs on the condensed network where there is one, in float32, else on the network itself without rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds import walk
from pipeline.bounds.adam import Adam
from pipeline.bounds.condensed import LARGEST, Condensed, CondensedForms, DomainBounds, condensed
from pipeline.bounds.splits import Domains, SplitBounds, Trace
from pipeline.core.network import Step

TOGETHER = 256
"""Rows that the condensed network is walked with at once: as many whatever memory there is, since sums depend on it."""


@dataclass(frozen=True)
class Ascent:
    """How slopes and multipliers are searched for: Adam on the sum of the lower bounds."""

    steps: int
    slope_rate: float = 0.1
    multiplier_rate: float = 0.5
    """In units of the mean absolute coefficient of the neuron's layer."""
    decay: float = 0.95


class SearchBounds:
    """About the bounds of ``split``, with their derivatives; ``memory`` bytes may go into the condensed network."""

    def __init__(self, split: SplitBounds, memory: int = LARGEST):
        self.split = split
        self.condensed: Condensed | None = None
        self.forms: CondensedForms | None = None
        if result := condensed(split, memory, TOGETHER):
            self.condensed, self.forms = result
        self.layers = [at for _, _, at in split.layers]
        self.start, self.slope, self.offset = (
            value.to(self.forms.const if self.forms else split.forms.const) for value in split.lines()
        )
        """Of each neuron, the lower slope that a search starts from, and the upper line."""

    def whole(self, of: Tensor, lower: Tensor) -> Domains:
        """Nothing assumed: the region itself, for some of the forms."""
        zeros = self.start.new_zeros(len(of), len(self.start))
        return Domains(of, zeros, self.start.expand_as(zeros).clone(), zeros.clone(), lower.to(zeros))

    def before(self, layer: int, forms: CondensedForms, lower: Tensor, upper: Tensor) -> SearchBounds:
        """The same of other forms, over the outputs of the layers before one and over other boxes of their neurons."""
        assert self.condensed is not None
        part, end = copy.copy(self), self.layers[layer].start
        part.condensed, part.forms = self.condensed.before(layer, lower, upper), forms.first(end)
        part.layers, part.start = self.layers[:layer], self.start[:end]
        part.slope, part.offset = part.condensed.triangles.slope, part.condensed.triangles.offset
        return part

    def bound(self, domains: Domains, alpha: Tensor, beta: Tensor, *, ascend: bool = False) -> DomainBounds:
        """Bounds of as many domains as are walked at once, with their derivatives if ``ascend``."""
        if self.condensed is not None and self.forms is not None:
            return self.condensed.bound(self.forms[domains.of], domains.sign, alpha, beta, ascend=ascend)
        with torch.set_grad_enabled(ascend):
            trace, variables = Trace(), [alpha.detach().requires_grad_(ascend), beta.detach().requires_grad_(ascend)]
            lower = self.split.lower(domains, *variables, exact=True, trace=trace)
            slopes, multipliers = (
                torch.autograd.grad(lower.sum(), variables, allow_unused=True, materialize_grads=True)
                if lower.requires_grad
                else (None, None)
            )
        outputs = self.split.gathered({i: c.detach() for i, c in trace.outputs.items()}, len(domains))
        return DomainBounds(lower.detach(), outputs, self.split.minimiser(trace, len(domains)), slopes, multipliers)

    def at(self, points: Float[Tensor, " rows *features"]) -> Float[Tensor, "rows neurons"]:
        """What each neuron's ReLU reads at points."""
        if self.condensed is not None:
            return self.condensed.at(points)
        reads = [
            self.split.gathered({i: values[node] for i, node in self.split.nodes.items()}, len(some))
            for some, values in self._run(points)
        ]
        return torch.cat(reads)

    def value(self, of: Int[Tensor, " rows"], points: Float[Tensor, " rows *features"]) -> Float[Tensor, " rows"]:
        """The forms themselves at points, one at each."""
        if self.condensed is not None and self.forms is not None:
            rows, outs = self.forms[of], self.condensed.at(points).clamp_min(0)
            return (rows.inputs * points.flatten(1)).sum(1) + (rows.outputs * outs).sum(1) + rows.const
        forms, index = self.split.forms, self.split.index
        outs = torch.cat([values[index] for _, values in self._run(points)]).flatten(1)
        return (forms.coeff[of, 0].flatten(1) * outs).sum(1) + forms.const[of, 0]

    def _run(self, points: Tensor) -> Iterator[tuple[Tensor, list[Any]]]:
        """The network at points, some at once."""
        split = self.split
        for some in points.split(split.rows if split.together else 1):
            yield some, walk.forward(split.bounds.plan, [some], _unreached, keep={*split.nodes.values(), split.index})

    @torch.no_grad()
    def weight(self, domains: Domains) -> Float[Tensor, " neurons"]:
        """How much the width of each neuron's box matters to the bounds of some domains."""
        outputs = [self.bound(part, part.alpha, part.beta).outputs for part in self.parts(domains)]
        return (torch.cat(outputs).abs() * self.offset).amax(0)

    def parts(self, domains: Domains) -> Iterator[Domains]:
        """As many at once as are walked together."""
        return domains.split(TOGETHER if self.condensed is not None else self.split.rows)

    @torch.no_grad()
    def improved(self, domains: Domains, ascent: Ascent, enough: Float[Tensor, " forms"]) -> Domains:
        """The same domains by better slopes and multipliers; a row whose bound reaches ``enough`` moves no further."""
        return Domains.joined(
            [self._ascended(part, ascent, enough[part.of]) for part in self.parts(domains)] or [domains]
        )

    def _ascended(self, domains: Domains, ascent: Ascent, enough: Tensor) -> Domains:
        bound = self.bound(domains, domains.alpha, domains.beta, ascend=ascent.steps > 0)
        unit = self._layer_means(bound.outputs.abs()).clamp_min(1e-12)
        alpha, share = domains.alpha.clone(), domains.beta / unit
        best, highest = [domains.alpha, domains.beta], bound.lower.nan_to_num(-torch.inf)
        adam = Adam([alpha, share], [ascent.slope_rate, ascent.multiplier_rate], ascent.decay)
        for steps_left in reversed(range(ascent.steps)):
            open_ = (highest <= enough)[:, None]
            if bound.slopes is None or bound.multipliers is None or not bool(open_.any()):
                break
            ascents = torch.where(open_, bound.slopes, 0.0), torch.where(open_, bound.multipliers * unit, 0.0)
            adam.step([-ascent for ascent in ascents])
            alpha.clamp_(0, 1)
            share.clamp_(min=0)
            beta = share * unit
            bound = self.bound(domains, alpha, beta, ascend=steps_left > 0)
            raised = bound.lower > highest
            highest = torch.where(raised, bound.lower, highest)
            best = [torch.where(raised[:, None], *pair) for pair in zip([alpha, beta], best, strict=True)]
        return replace(domains, alpha=best[0], beta=best[1], lower=torch.maximum(highest, domains.lower))

    def _layer_means(self, values: Float[Tensor, "n neurons"]) -> Float[Tensor, "n neurons"]:
        parts = [values[:, mine].mean(1, keepdim=True).expand(-1, mine.stop - mine.start) for mine in self.layers]
        return torch.cat(parts, 1) if parts else values


def _unreached(step: Step, *values: object) -> object:
    raise AssertionError(f"{step.name}: every value is a point here")
