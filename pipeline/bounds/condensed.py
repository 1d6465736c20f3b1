"""The network between the unstable ReLUs of one region, as dense matrices: what the search of branch and bound runs on.

Over a region all else is affine, stable ReLUs too. So what the unstable ones read is ``z = N x + b + M relu(z)``, ``M`` strictly
lower triangular in the order of the layers, and a form over the outputs is ``<n, x> + d + <m, relu(z)>``. A walk over these few
numbers costs a fraction of one through all neurons; in float32, since no proof rests on it: slopes and multipliers that it
finds are put through a walk of the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds.splits import Domains, SplitBounds, Trace
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT
from pipeline.core.threat import Box, EuclideanBall

LARGEST = 1 << 27
"""Bytes of the largest matrices that a network is condensed to, however much memory is allowed."""
OF_A_WALK = 16, 6
"""The tensors that are alive at once in a walk, of a number for each neuron and of one for each pixel."""


@dataclass(frozen=True, eq=False)
class CondensedForms:
    """Forms as they are when every unstable ReLU is a variable: ``<inputs, x> + const + <outputs, relu(z)>``, a row each."""

    inputs: Float[Tensor, "rows pixels"]
    outputs: Float[Tensor, "rows neurons"]
    const: Float[Tensor, " rows"]

    def __getitem__(self, rows: slice | Tensor) -> CondensedForms:
        return CondensedForms(self.inputs[rows], self.outputs[rows], self.const[rows])

    def with_negated(self) -> CondensedForms:
        """The same rows, and behind them minus each."""
        return CondensedForms(*(torch.cat([value, -value]) for value in (self.inputs, self.outputs, self.const)))

    def first(self, neurons: int) -> CondensedForms:
        """The same where no other neuron matters."""
        return CondensedForms(self.inputs, self.outputs[:, :neurons], self.const)


@dataclass(frozen=True, eq=False)
class Triangles:
    """``a x <= relu(x) <= slope x + offset`` where a neuron's box is ``[lower, upper]``, any ``a`` in [0, 1]."""

    slope: Float[Tensor, " neurons"]
    offset: Float[Tensor, " neurons"]
    sign: Float[Tensor, " neurons"]
    """What the box says of the sign: 1, -1, or 0 where it is open. Both lines of a stable neuron are the function itself."""

    @classmethod
    def over(cls, lower: Tensor, upper: Tensor) -> Triangles:
        open_ = (lower < 0) & (upper > 0)
        sign = torch.where(open_, 0.0, torch.where(lower >= 0, 1.0, -1.0)).to(upper)
        slope = torch.where(open_, upper / (upper - lower), (sign > 0).to(upper))
        return cls(slope, torch.where(open_, -slope * lower, 0.0), sign)


@dataclass(frozen=True, eq=False)
class DomainBounds:
    """Lower bounds, one a row, with their derivatives and coefficients: nothing that a proof rests on."""

    lower: Float[Tensor, " rows"]
    outputs: Float[Tensor, "rows neurons"]
    """The coefficient over each neuron's output."""
    point: Float[Tensor, " rows *features"]
    """Where the form that the walk ended with is least over the region."""
    slopes: Tensor | None = None
    """The derivative of the bound by each lower slope."""
    multipliers: Tensor | None = None
    """The derivative of the bound by each multiplier."""


class Condensed:
    """``z = N x + b + M relu(z)`` for the neurons of some layers, slices in their order, over one region.

    ``neurons`` holds the rows ``N``, ``M`` and ``b``, and ``triangles`` what stands for each ReLU.
    """

    def __init__(
        self, neurons: CondensedForms, layers: Sequence[slice], region: Box | EuclideanBall, triangles: Triangles
    ):
        self.neurons, self.layers, self.triangles = neurons, layers, triangles
        self.region = in_precision_of(neurons.const, region)
        self.center, self.shape = self.region.box.center.flatten(), region.box.center.shape[1:]
        self.middle = neurons.inputs @ self.center + neurons.const
        """What neurons read at the center of the region where no ReLU puts anything out."""

    def before(self, layer: int, lower: Tensor, upper: Tensor) -> Condensed:
        """The layers before one, over these boxes of their neurons."""
        end = self.layers[layer].start
        triangles = Triangles.over(lower[:end].to(self.center), upper[:end].to(self.center))
        return Condensed(self.neurons[:end].first(end), self.layers[:layer], self.region, triangles)

    def bound(
        self, forms: CondensedForms, sign: Tensor, alpha: Tensor, beta: Tensor, *, ascend: bool = False
    ) -> DomainBounds:
        """Lower bounds of forms, where ``sign`` (rows, neurons) is assumed; ``ascend`` asks for the derivatives too.

        The derivative by a multiplier is minus what it multiplies at the point where the bound is taken, and that by a slope the
        coefficient times what the neuron reads there (both by the theorem of the envelope): one walk forwards.
        """
        triangles = self.triangles
        signs = torch.where(sign == 0, triangles.sign, sign)
        open_, active = signs == 0, (signs > 0).to(alpha)
        below = torch.where(open_, alpha, active)
        above = torch.where(open_, triangles.slope, active)
        offset = triangles.offset * open_
        over, read = forms.outputs.clone(), torch.empty_like(alpha)
        for at in reversed(self.layers):
            out = over[:, at]
            read[:, at] = out.clamp_min(0) * below[:, at] + out.clamp_max(0) * above[:, at] - beta[:, at] * sign[:, at]
            over[:, : at.start].addmm_(read[:, at], self.neurons.outputs[at, : at.start])
        const = forms.const + read @ self.neurons.const + (over.clamp_max(0) * offset).sum(1)
        inputs = torch.addmm(forms.inputs, read, self.neurons.inputs)
        least, at_least, point = self._least(inputs, const)
        if not ascend:
            return DomainBounds(least, over, point)

        def line(reads: Tensor, at: slice) -> Tensor:
            return torch.where(over[:, at] >= 0, below[:, at] * reads, above[:, at] * reads + offset[:, at])

        reads = self._forwards(at_least, line)
        return DomainBounds(least, over, point, over.clamp_min(0) * reads * open_, -sign * reads)

    def at(self, points: Float[Tensor, " rows *features"]) -> Float[Tensor, "rows neurons"]:
        """What each neuron reads at points of the region."""
        return self._forwards(points.to(self.center), lambda reads, at: reads.clamp_min(0))

    def _forwards(self, points: Tensor, puts_out: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """What neurons read at points, ``puts_out(reads, layer)`` being their outputs; from the center, as float32 loses less."""
        reads = torch.addmm(self.middle, points.flatten(1) - self.center, self.neurons.inputs.T)
        outs = torch.empty_like(reads)
        for at in self.layers:
            reads[:, at].addmm_(outs[:, : at.start], self.neurons.outputs[at, : at.start].T)
            outs[:, at] = puts_out(reads[:, at], at)
        return reads

    def _least(self, inputs: Tensor, const: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``<inputs, x> + const`` is bounded by over the region, where it has that value, and about where it is least.

        Over a ball that the range of the data cuts, the bound is the larger of two, and its point may lie outside of either.
        """
        form, region = LinearForm(inputs.reshape(len(inputs), 1, *self.shape), const[:, None]), self.region
        least, inside = region.minimise(form, EXACT)[:, 0], region.minimiser(form)[:, 0]
        if isinstance(region, Box):
            return least, inside, inside
        corner = Box(region.box).minimise(form, EXACT)[:, 0] >= least
        length = inputs.norm(dim=1, keepdim=True).clamp_min(1e-30)
        touching = (region.center.flatten() - region.radius * inputs / length).reshape(inside.shape)
        at = torch.where(corner.reshape(-1, *[1] * len(self.shape)), Box(region.box).minimiser(form)[:, 0], touching)
        return least, at, inside


def in_precision_of(value: Tensor, region: Box | EuclideanBall) -> Box | EuclideanBall:
    """About the same region in the number format of ``value``."""
    box = Interval(region.box.center.to(value), region.box.radius.to(value))
    return Box(box) if isinstance(region, Box) else EuclideanBall(region.center.to(value), region.radius, box)


@torch.no_grad()
def condensed(split: SplitBounds, memory: int, rows: int) -> tuple[Condensed, CondensedForms] | None:
    """The network of ``split`` between its unstable ReLUs, and its forms, in float32.

    None where something else than ReLUs is not affine, or where matrices, and walks of so many ``rows`` through them, would take
    more than ``memory`` bytes. They come from a walk back from every neuron with all neurons assumed
    inactive, which keeps the coefficients over the outputs of neurons.
    """
    bounds, count = split.bounds, split.neurons
    ((index, region),) = bounds.regions.items()
    assert isinstance(region, Box | EuclideanBall)
    size = region.box.center.numel()
    matrices, walks = 4 * count * (count + size), 4 * rows * (OF_A_WALK[0] * count + OF_A_WALK[1] * size)
    if matrices > LARGEST or matrices + walks > memory or not all(map(split.affine_between, bounds.plan.steps)):
        return None

    def condense(rows: Domains, start: Mapping[int, LinearForm] | None) -> CondensedForms | None:
        trace, silent = Trace(), replace(rows, sign=torch.full_like(rows.sign, -1.0))
        split.lower(silent, silent.alpha, silent.beta, exact=True, trace=trace, start=start)
        if not trace.ends.keys() <= {index}:
            return None
        end = trace.ends.get(index)  # none of a constant
        inputs = rows.sign.new_zeros(len(rows), size) if end is None else end.coeff.flatten(1)
        const = rows.sign.new_zeros(len(rows)) if end is None else end.const[:, 0]
        return CondensedForms(inputs.float(), split.gathered(trace.outputs, len(rows)).float(), const.float())

    forms = condense(split.unassumed(torch.arange(len(split.forms.const))), None)
    if forms is None:
        return None
    empty = forms.const.new_empty
    neurons = CondensedForms(empty(count, size), empty(count, count), empty(count))
    for mine, start in split.neuron_forms():
        part = condense(split.unassumed(torch.zeros(mine.stop - mine.start, dtype=torch.int64)), start)
        if part is None:
            return None
        for f in fields(CondensedForms):
            getattr(neurons, f.name)[mine] = getattr(part, f.name)
    lower, upper = (end.float() for end in split.ends())
    return Condensed(neurons, [at for _, _, at in split.layers], region, Triangles.over(lower, upper)), forms
