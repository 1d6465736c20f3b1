"""Linear bounds of one sample under assumptions on the signs of neurons: what branch and bound is made of.

Where ``s x >= 0`` is assumed of the input of a ReLU, ``s`` in {-1, 1}, the ReLU is linear; and a lower form over ``x`` may
lose ``beta s x`` for any ``beta >= 0``, which is at most zero there (beta-CROWN, Wang et al., arXiv 2103.06624, theorem 3.1).
The walk is the one that every method takes: what is assumed changes the lines of a ReLU, and a multiplier is one more form
that enters at its input. So the boxes and the rounding of the whole region serve all its parts, which are subsets of it.
As where forms meet, a node is taken to have one value for all that read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.linear import Bounds
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.network import Step
from pipeline.core.threat import Box, EuclideanBall
from pipeline.rules import Affine, rule_for
from pipeline.rules.relax import Lines


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
    """The best lower bound so far, rounding left out."""

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, rows: slice | Tensor) -> Domains:
        return Domains(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def nbytes(self) -> int:
        """What these take in memory."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    def split(self, rows: int) -> Iterator[Domains]:
        """So many at once."""
        return (self[slice(start, start + rows)] for start in range(0, len(self), rows))

    def to(self, like: Tensor) -> Domains:
        """The same in the number format of a tensor."""
        return Domains(self.of, *(getattr(self, f.name).to(like) for f in fields(self)[1:]))

    @classmethod
    def joined(cls, parts: Sequence[Domains]) -> Domains:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class Trace:
    """Keeps of one walk the coefficients over the outputs of the neurons, and the forms where it ends."""

    def __init__(self) -> None:
        self.outputs: dict[int, Tensor] = {}
        self.ends: Mapping[int, LinearForm] = {}

    def visit(self, step: Step, form: LinearForm) -> None:
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
        start = 0
        for step in bounds.plan.steps:
            relaxation = bounds.relaxed(step, exact=True) if step.index in bounds.values else None
            if not isinstance(relaxation, Lines) or relaxation.pieces is None:
                continue
            lower, upper = bounds.linear.rounding.ends(bounds.box(step.args[0]))
            open_ = ((lower < 0) & (upper > 0))[0].flatten().nonzero().flatten()
            if len(open_) and relaxation.start is not None:
                self.layers.append((step, open_, slice(start, start + len(open_))))
                start += len(open_)
        self.neurons = start
        """How many signs are open."""

    def unassumed(self, of: Tensor) -> Domains:
        """The region itself, for some of the forms; slopes and multipliers are zero."""
        zeros = self.forms.const.new_zeros(len(of), self.neurons)
        return Domains(of.to(zeros.device), zeros, zeros.clone(), zeros.clone(), zeros.new_full((len(of),), -torch.inf))

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each neuron, the lower slope that it starts from, and slope and offset of the upper line, rounding left out."""
        by_step: tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]] = ({}, {}, {})
        for step, _, _ in self.layers:
            relaxation = self.bounds.relaxed(step, exact=True)
            assert isinstance(relaxation, Lines)
            assert relaxation.start is not None
            assert relaxation.above.offset is not None
            values = relaxation.start[0], relaxation.above.slope, relaxation.above.offset
            for of_steps, value in zip(by_step, values, strict=True):
                of_steps[step.index] = value
        first, slope, offset = (self.gathered(of_steps, 1)[0] for of_steps in by_step)
        return first, slope, offset

    def ends(self) -> tuple[Tensor, Tensor]:
        """The box of each neuron."""
        both = {
            step.index: self.bounds.linear.rounding.ends(self.bounds.box(step.args[0])) for step, _, _ in self.layers
        }
        lower, upper = (self.gathered({i: ends[side] for i, ends in both.items()}, 1)[0] for side in (0, 1))
        return lower, upper

    def affine_between(self, step: Step) -> bool:
        """Whether an operator is affine over the region but for its neurons."""
        if not isinstance(self.bounds.values.get(step.index), Interval):
            return True  # a constant
        relaxation = self.bounds.relaxed(step, exact=True)
        return isinstance(rule_for(step.op), Affine) or (
            isinstance(relaxation, Lines) and relaxation.pieces is not None
        )

    def neuron_forms(self) -> Iterator[tuple[slice, dict[int, LinearForm]]]:
        """What each neuron reads, as a form over the node that it reads from: some at once, in their order."""
        for step, at, mine in self.layers:
            node, shape = step.args[0], self.bounds.box(step.args[0]).center.shape[1:]
            for start in range(0, len(at), self.rows):
                some = at[start : start + self.rows, None]
                unit = self.forms.const.new_zeros(len(some), shape.numel()).scatter(1, some, 1.0)
                form = LinearForm(unit.reshape(len(some), 1, *shape), unit.new_zeros(len(some), 1))
                yield slice(mine.start + start, mine.start + start + len(some)), {node: form}

    def minimiser(self, trace: Trace, rows: int) -> Tensor:
        """About where the form that a walk ended with is least over the region: the center where it came nowhere near."""
        ((index, region),) = self.bounds.regions.items()
        assert isinstance(region, Box | EuclideanBall)
        form = trace.ends.get(index)
        return (
            region.box.center.expand(rows, *region.box.center.shape[1:])
            if form is None
            else region.minimiser(form)[:, 0]
        )

    @torch.no_grad()
    def proved(self, domains: Domains, *, exact: bool = False) -> Float[Tensor, " n"]:
        """Lower bounds that are true in the arithmetic of ``bounds``; ``exact`` leaves rounding out."""
        parts = [self.lower(part, part.alpha.clamp(0, 1), part.beta, exact=exact) for part in self.parts(domains)]
        return torch.cat([self.forms.const[:0, 0], *parts])

    def parts(self, domains: Domains) -> Iterator[Domains]:
        """As many at once as may be walked together."""
        return domains.to(self.forms.const).split(self.rows)

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
        return self.bounds.lower(forms, alpha=slopes, signs=signs, on_visit=trace.visit, on_end=trace.end, exact=exact)[
            :, 0
        ]

    @property
    def nodes(self) -> dict[int, int]:
        return {step.index: step.args[0] for step, _, _ in self.layers}

    def spread(self, values: Float[Tensor, "n neurons"]) -> dict[int, Float[Tensor, "n 1 *features"]]:
        """By step, the values of its neurons where they are, and zero elsewhere."""
        by_step = {}
        for step, at, mine in self.layers:
            shape = self.bounds.box(step.args[0]).center.shape[1:]
            flat = values.new_zeros(len(values), shape.numel()).index_copy(1, at, values[:, mine])
            by_step[step.index] = flat.reshape(len(values), 1, *shape)
        return by_step

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
