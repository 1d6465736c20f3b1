"""Linear bounds of one sample under assumptions on the signs of neurons: what branch and bound is made of.

Where ``s x >= 0`` is assumed of the input of a ReLU, ``s`` in {-1, 1}, the ReLU is linear; and a lower form over ``x`` may
lose ``beta s x`` for any ``beta >= 0``, which is at most zero there (beta-CROWN, Wang et al., arXiv 2103.06624, theorem 3.1).
The walk is the one that every method takes: what is assumed changes the lines of a ReLU, and a multiplier is one more form
that enters at its input. So the boxes and the rounding of the whole region serve all its parts, which are subsets of it.
As where forms meet, a node is taken to have one value for all that read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.duals import multipliers
from pipeline.bounds.linear import Bounds
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Step
from pipeline.rules.relax import Lines

LARGEST_PROGRAM = 10_000_000
"""The numbers in the largest linear program that is tried."""


@dataclass(frozen=True, eq=False)
class Domains:
    """Parts of one sample's region, a row each; what is stored is what a bound is computed from."""

    of: Int[Tensor, " n"]
    """Which of the forms is bounded."""
    sign: Float[Tensor, "n neurons"]
    """What is assumed: 1 and -1, or 0 for nothing."""
    alpha: Float[Tensor, "n neurons"]
    """Lower slopes, in [0, 1]."""
    beta: Float[Tensor, "n neurons"]
    """Multipliers, at least zero."""
    lower: Float[Tensor, " n"]
    """The best lower bound found so far, rounding left out."""

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, rows: slice | Tensor) -> Domains:
        return Domains(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Domains]) -> Domains:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class Ascent:
    """How slopes and multipliers are searched for: Adam on the sum of the lower bounds."""

    steps: int
    slope_rate: float = 0.1
    multiplier_rate: float = 0.5
    """In units of the mean absolute coefficient of the neuron's layer."""
    decay: float = 0.95


class Trace:
    """What one walk saw: coefficients over the outputs of the neurons, and the forms where it ended."""

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor] = {}
        self.ends: Mapping[int, LinearForm] = {}

    def seen(self, step: Step, form: LinearForm) -> None:
        self.outputs[step.index] = form.coeff

    def end(self, ends: Mapping[int, LinearForm]) -> None:
        self.ends = ends


class SplitBounds:
    """Lower bounds of forms over the outputs of a network, for parts of the region of one sample.

    ``bounds`` are those of the whole region, a batch of one, in float64; ``forms``: (forms, 1, *outputs) over the node
    ``index``. ``rows`` bounds how many domains are walked at once; the network itself takes as many points ``together``, or one.
    """

    def __init__(self, bounds: Bounds, forms: LinearForm, index: int, rows: int, together: bool = True):
        self.bounds, self.forms, self.index, self.rows, self.together = bounds, forms, index, max(4, rows), together
        self.layers: list[tuple[Step, Tensor, slice]] = []
        """Each ReLU with an open sign, the flat positions of these, and where their neurons are among all."""
        start, slopes = 0, []
        for step in bounds.plan.steps:
            relaxation = bounds.relaxed(step, exact=True) if step.index in bounds.values else None
            if not isinstance(relaxation, Lines) or relaxation.pieces is None:
                continue
            lower, upper = bounds.linear.rounding.ends(bounds.box(step.args[0]))
            open_ = ((lower < 0) & (upper > 0))[0].flatten().nonzero().flatten()
            if len(open_) and relaxation.start is not None:
                self.layers.append((step, open_, slice(start, start + len(open_))))
                slopes.append(relaxation.start[0, 0].flatten()[open_])
                start += len(open_)
        self.neurons = start
        """How many signs are open."""
        self._slopes = torch.cat(slopes) if slopes else forms.const.new_zeros(0)

    def whole(self, of: Tensor, lower: Tensor) -> Domains:
        """Nothing assumed: the region itself, for some of the forms."""
        zeros = self.forms.const.new_zeros(len(of), self.neurons)
        return Domains(of, zeros, self._slopes.expand_as(zeros).clone(), zeros.clone(), lower)

    @torch.no_grad()
    def proved(self, domains: Domains) -> Float[Tensor, " n"]:
        """Lower bounds that are true in the arithmetic of ``bounds``."""
        parts = [self.lower(part, part.alpha.clamp(0, 1), part.beta) for part in self.parts(domains)]
        return torch.cat([domains.lower[:0], *parts])

    def improved(self, domains: Domains, ascent: Ascent, enough: Tensor) -> Domains:
        """The same domains by better slopes and multipliers; a row whose bound reaches ``enough`` moves no further."""
        return Domains.joined(
            [self._ascended(part, ascent, enough[part.of]) for part in self.parts(domains)] or [domains]
        )

    @torch.no_grad()
    def solved(self, domains: Domains) -> Domains:
        """The same domains, in each of which all signs are assumed, with the best multipliers there are.

        In such a part the network is linear, and so is every assumption: see ``multipliers``.
        """
        beta = [self._duals(domains[i : i + 1]) for i in range(len(domains))]
        found = replace(domains, beta=torch.stack(beta)) if beta else domains
        parts = [self.lower(part, part.alpha, part.beta, exact=True) for part in self.parts(found)]
        return replace(found, lower=torch.cat([found.lower[:0], *parts]))

    def _duals(self, domain: Domains) -> Float[Tensor, " neurons"]:
        ((index, region),) = self.bounds.regions.items()
        box, zeros = region.box, torch.zeros_like(domain.beta)
        if self.neurons * box.center.numel() > LARGEST_PROGRAM:
            return domain.beta[0]

        def pulled(rows: Domains, start: Mapping[int, LinearForm] | None) -> tuple[np.ndarray, np.ndarray]:
            trace = Trace()
            self.lower(rows, rows.alpha, zeros.expand_as(rows.alpha), exact=True, trace=trace, start=start)
            if index not in trace.ends:  # every walk ends before, such as at a step function: a function of nothing
                return np.zeros((len(rows), box.center.numel())), np.zeros(len(rows))
            form = trace.ends[index]
            return form.coeff.flatten(1).cpu().numpy(), form.const[:, 0].cpu().numpy()

        (c,), (d,) = pulled(domain, None)
        a, b = np.zeros((self.neurons, len(c))), np.zeros(self.neurons)
        for step, at, mine in self.layers:
            node, shape = step.args[0], self.bounds.box(step.args[0]).center.shape[1:]
            unit = zeros.new_zeros(len(at), shape.numel()).scatter(1, at[:, None], 1.0).reshape(len(at), 1, *shape)
            rows = Domains.joined([domain] * len(at))
            a[mine], b[mine] = pulled(rows, {node: LinearForm(unit, unit.new_zeros(len(at), 1))})
        sign = domain.sign[0].cpu().numpy()
        ends = [end[0].flatten().cpu().numpy() for end in (box.lower, box.upper)]
        found = multipliers(c, float(d), sign[:, None] * a, sign * b, *ends)
        return domain.beta[0] if found is None else zeros.new_tensor(found)

    def parts(self, domains: Domains) -> Iterator[Domains]:
        """As many at once as may be walked together."""
        for start in range(0, len(domains), self.rows):
            yield domains[slice(start, start + self.rows)]

    def lower(
        self,
        domains: Domains,
        alpha: Tensor,
        beta: Tensor,
        *,
        exact: bool = False,
        trace: Trace | None = None,
        start: Mapping[int, LinearForm] | None = None,
    ) -> Float[Tensor, " n"]:
        """Of the forms that the domains are about, or of those to ``start`` from, a row for each domain."""
        own = {self.index: LinearForm(self.forms.coeff[domains.of], self.forms.const[domains.of])}
        forms = dict(own if start is None else start)
        signs = self.spread(domains.sign)
        # Whatever a search left behind: a multiplier below zero, or none at all, would be no multiplier.
        for index, pull in self.spread(-torch.nan_to_num(beta, 0.0, 0.0, 0.0).clamp_min(0) * domains.sign).items():
            node = self.nodes[index]
            form = LinearForm(pull, pull.new_zeros(pull.shape[:2]))
            forms[node] = (
                self.bounds.linear.rounding.merge(forms[node], form, self.bounds.box(node)) if node in forms else form
            )
        slopes = {index: value[None] for index, value in self.spread(alpha).items()}
        trace = trace or Trace()
        return self.bounds.lower(forms, alpha=slopes, signs=signs, seen=trace.seen, ended=trace.end, exact=exact)[:, 0]

    @property
    def nodes(self) -> dict[int, int]:
        return {step.index: step.args[0] for step, _, _ in self.layers}

    def spread(self, values: Float[Tensor, "n neurons"]) -> dict[int, Float[Tensor, "n 1 *features"]]:
        """By step, the values of its neurons where they are, and zero elsewhere."""
        found = {}
        for step, at, mine in self.layers:
            shape = self.bounds.box(step.args[0]).center.shape[1:]
            flat = values.new_zeros(len(values), shape.numel()).index_copy(1, at, values[:, mine])
            found[step.index] = flat.reshape(len(values), 1, *shape)
        return found

    def gathered(self, values: Mapping[int, Tensor], rows: int) -> Float[Tensor, "n neurons"]:
        """The other way: what each neuron has, zero where the walk did not come by."""
        parts = []
        for step, at, mine in self.layers:
            value = values.get(step.index)
            parts.append(
                self.forms.const.new_zeros(rows, mine.stop - mine.start)
                if value is None
                else value.reshape(rows, -1)[:, at]
            )
        return torch.cat(parts, 1) if parts else self.forms.const.new_zeros(rows, 0)

    def _ascended(self, domains: Domains, ascent: Ascent, enough: Tensor) -> Domains:
        trace = Trace()
        with torch.no_grad():
            self.lower(domains, domains.alpha, domains.beta, exact=True, trace=trace)
            size = self.gathered(trace.outputs, len(domains)).abs()
            unit = self._layer_means(size).clamp_min(1e-12)
        alpha, share = domains.alpha.clone().requires_grad_(), (domains.beta / unit).requires_grad_()
        rates = [(alpha, ascent.slope_rate), (share, ascent.multiplier_rate)]
        optimiser = torch.optim.Adam([{"params": [p], "lr": rate} for p, rate in rates])
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, ascent.decay)
        best = [domains.alpha, domains.beta, torch.full_like(domains.lower, -torch.inf)]
        for step in range(ascent.steps + 1):
            with torch.enable_grad():
                beta = share * unit
                found = self.lower(domains, alpha, beta, exact=True)
                raised = found.detach() > best[2]
                best = [
                    torch.where(raised[:, None], alpha.detach(), best[0]),
                    torch.where(raised[:, None], beta.detach(), best[1]),
                    torch.where(raised, found.detach(), best[2]),
                ]
                open_ = best[2] <= enough
                if step == ascent.steps or not found.requires_grad or not bool(open_.any()):
                    break
                optimiser.zero_grad(set_to_none=True)
                (-torch.where(open_, found, 0).sum()).backward(inputs=[alpha, share])
            optimiser.step()
            schedule.step()
            alpha.data.clamp_(0, 1)
            share.data.clamp_(min=0)
        return Domains(domains.of, domains.sign, best[0], best[1], torch.maximum(best[2], domains.lower))

    def _layer_means(self, values: Float[Tensor, "n neurons"]) -> Float[Tensor, "n neurons"]:
        parts = [values[:, mine].mean(1, keepdim=True).expand(-1, mine.stop - mine.start) for _, _, mine in self.layers]
        return torch.cat(parts, 1) if parts else values
