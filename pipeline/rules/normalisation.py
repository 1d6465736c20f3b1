"""Normalisation by a value's own mean and variance: LayerNorm, InstanceNorm (and GroupNorm, exported as one of them)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.floating_point import dot
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.programs import NORMALISATION, normalisation_error
from pipeline.rules.relax import Line, Relaxation
from pipeline.rules.rule import Example, Op, Rule, Value, rule

InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


@dataclass(frozen=True)
class Groups:
    """The deviations ``d = x - mean x`` over the last axis of (batch, groups, entries), and the range of their squares.

    Without ``centred`` they are the entries themselves, and their mean square stands for the variance.
    """

    d: Interval
    least: Tensor
    most: Tensor
    eps: float
    centred: bool = True

    @staticmethod
    def of(x: Interval, eps: float, rounding: Rounding, *, centred: bool = True) -> Groups:
        """``|d - d0|_i <= r_i (1 - 2/n) + mean r``: every entry moves ``d_i`` by ``1/n``, its own by ``1 - 1/n``."""
        n, d = x.center.shape[-1], x
        if centred:
            mean = x.magnitude.mean(-1, keepdim=True)
            radius = x.radius * (1 - 2 / n) + x.radius.mean(-1, keepdim=True)
            radius = rounding.up(radius.clamp_min(0) + rounding.own_error(x.magnitude + mean, n + 4), 4)
            d = Interval(x.center - x.center.mean(-1, keepdim=True), radius)
        reach = d.radius + rounding.own_error(d.magnitude, 1)
        least, most = (d.center.abs() - reach).clamp_min(0) ** 2, (d.center.abs() + reach) ** 2
        return Groups(d, least, most, eps, centred)

    def hull(self, rounding: Rounding) -> tuple[Tensor, Tensor]:
        """The ends of ``q_i = d_i / sqrt(v + eps)``, ``n v = d_i^2 + S``.

        ``S`` is the sum of the other squares. ``q_i`` grows with ``d_i``, and ``|q_i|`` falls with ``S``. Deviations sum to zero,
        so that ``S >= d_i^2/(n - 1)`` and ``|q_i| <= sqrt(n - 1)``; for entries that are not centred, ``S >= 0`` alone.
        """
        n = self.least.shape[-1]
        least, most = (v.sum(-1, keepdim=True) for v in (self.least, self.most))
        # The differences may cancel: their error is bounded by the size of the sums.
        few = (least - self.least - rounding.own_error(least, n)).clamp_min(0)
        many = most - self.most + rounding.own_error(most, n)
        ends = []
        for sign, d in zip((-1.0, 1.0), rounding.ends(self.d), strict=True):
            at_least = torch.maximum(few, d * d / max(n - 1, 1)) if self.centred else few
            others = torch.where(sign * d > 0, at_least, many)
            ends.append(d / ((d * d + others) / n + self.eps).sqrt())
        return ends[0], ends[1]


@dataclass(frozen=True, eq=False)
class NormalisationRelaxation(Relaxation):
    """``y = w q + b`` between lines ``a d_i + t`` of its own deviation, less ``g^3 d0_i <d0, d>/n`` where ``curved``."""

    groups: Groups
    g: Tensor
    curved: Tensor
    below: Line
    above: Line
    weight: Tensor
    bias: Tensor
    slack: Tensor | None
    rounding: Rounding

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        center = self.groups.d.center
        coeff = form.coeff.reshape(len(form.coeff), *center.shape)
        scaled = coeff * self.weight
        added = dot(coeff, self.bias)
        along = torch.where(self.curved, scaled, 0.0)
        d = -(self.g**3) * center * (along * center).mean(-1, keepdim=True)
        for line, part in ((self.below, scaled.clamp_min(0)), (self.above, scaled.clamp_max(0))):
            assert line.offset is not None
            d, added = d + part * line.slope, added + dot(part, line.offset)
        pulled = (d - d.mean(-1, keepdim=True) if self.groups.centred else d).reshape(form.coeff.shape)
        return (LinearForm(pulled, self.rounding.descend(form.const, added, coeff, self.slack)),)


class NormRule(Rule[Op]):
    """``w (x - mean) / sqrt(var + eps) + b`` over groups of entries; a subclass states the groups."""

    assumes = NORMALISATION
    centred = True

    def refuses(self, op: Op, abstract: tuple[bool, ...]) -> str | None:
        return None if self.eps(op) > 0 else "without a positive epsilon it has no value where all entries are equal"

    @abstractmethod
    def grouped(self, op: Op, x: Tensor) -> Tensor:
        """The value as (batch, groups, entries)."""

    @abstractmethod
    def affine(self, op: Op, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias, broadcastable to (batch, groups, entries)."""

    def eps(self, op: Op) -> float:
        eps = op.eps
        assert isinstance(eps, float)
        return eps

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        box = Interval(self.grouped(op, x.center), self.grouped(op, x.radius))
        groups = Groups.of(box, self.eps(op), rounding, centred=self.centred)
        lower, upper = groups.hull(rounding)
        weight, bias = self.affine(op, box.center)
        q = torch.maximum(lower.abs(), upper.abs())
        size = weight.abs() * q + bias.abs()
        error = rounding.own_error(size, lower.shape[-1] + 16) + self.evaluation(op, box, groups, q, rounding)
        center, radius = weight * (lower + upper) / 2 + bias, weight.abs() * (upper - lower) / 2
        return Interval(center.reshape(x.center.shape), rounding.up(radius + error, 4).reshape(x.center.shape))

    def evaluation(self, op: Op, x: Interval, groups: Groups, q: Tensor, rounding: Rounding) -> Tensor | float:
        """What the deployed kernel may err by, where deviations by their standard deviation are at most ``q``."""
        weight, bias = self.affine(op, x.center)
        spread = groups.least.mean(-1, keepdim=True) + groups.eps
        return normalisation_error(x, spread, q, weight, bias, eps=groups.eps, centred=self.centred, rounding=rounding)

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        """The tangent at the center, or lines in each deviation alone: whichever are closer to each other at the center.

        With ``D = d - d0`` and ``h = g(v) - g``, ``q - q0 = g D + d0 h + D h``; ``h`` is ``-g^3 <d0, D>/n`` up to ``k``, because
        ``g`` is convex in ``v`` and ``v - v0 = (2 <d0, D> + <D, D>)/n``. So the tangent loses ``|d0| k + r max|h|``.
        """
        (x,) = xs
        assert isinstance(x, Interval)
        box = Interval(self.grouped(op, x.center), self.grouped(op, x.radius))
        groups, n = Groups.of(box, self.eps(op), rounding, centred=self.centred), box.center.shape[-1]
        c, r = groups.d.center, groups.d.radius
        ends = [v.mean(-1, keepdim=True) for v in (groups.least, (c * c), groups.most)]
        high, g, low = (1 / (v + groups.eps).sqrt() for v in ends)
        half = g**3 / 2
        k = torch.stack(
            [
                half * (r * r).mean(-1, keepdim=True),
                high - g + half * (ends[0] - ends[1]),
                low - g + half * (ends[2] - ends[1]),
            ]
        ).amax(0)
        size = (c.abs() + r) * (high + g**3 * ends[2])
        error = rounding.own_error(4 * size, n + 16)
        gap = c.abs() * k + r * torch.maximum(high - g, g - low) + error
        below, above = _fan(groups.d, low, high), _fan(groups.d, high, low)
        offsets = [_extreme(groups.d, below, low, high, least=True), _extreme(groups.d, above, high, low, least=False)]
        curved = 2 * gap < (above - below) * c + offsets[1] - offsets[0] + 2 * error
        middle = g**3 * c * ends[1]  # q0 - g d0 + g^3 d0 <d0, d0>/n
        under, over = (
            Line(torch.where(curved, g, slope), torch.where(curved, middle + sign * gap, offset + sign * error))
            for slope, offset, sign in ((below, offsets[0], -1), (above, offsets[1], 1))
        )
        weight, bias = self.affine(op, c)
        m = box.magnitude + box.magnitude.mean(-1, keepdim=True)
        reach = weight.abs() * (high * m + g**3 * c.abs() * (c.abs() * m).mean(-1, keepdim=True))
        slack = rounding.lines_slack(
            Interval(torch.zeros_like(reach), reach), 2.0 * (n + 8), weight.abs() * (size + gap) * 4 + bias.abs()
        )
        if slack is not None:
            slack = slack + self.evaluation(op, box, groups, high * (c.abs() + r), rounding)
        return NormalisationRelaxation(groups, g, curved, under, over, weight, bias, slack, rounding)


def _fan(d: Interval, inner: Tensor, outer: Tensor) -> Tensor:
    """The slope of the chord of ``inner d`` where ``d > 0``, ``outer d`` elsewhere; any slope is sound over a point."""
    lower, upper = d.center - d.radius, d.center + d.radius
    chord = (torch.where(upper > 0, inner, outer) * upper - torch.where(lower > 0, inner, outer) * lower) / (
        upper - lower
    )
    return torch.where(upper > lower, chord, inner)


def _extreme(d: Interval, slope: Tensor, inner: Tensor, outer: Tensor, *, least: bool) -> Tensor:
    """The least, or greatest, offset at both ends: the piecewise line is concave where it is below, convex where above."""
    lower, upper = d.center - d.radius, d.center + d.radius
    at = [(torch.where(end > 0, inner, outer) - slope) * end for end in (lower, upper)]
    return torch.minimum(*at) if least else torch.maximum(*at)


def or_default(value: Tensor | None, default: float, like: Tensor, *shape: int) -> Tensor:
    """A parameter as (1, *shape), or a default number as (1, 1, 1) where the layer has none."""
    return (
        torch.full((1, 1, 1), default, dtype=like.dtype, device=like.device)
        if value is None
        else value.reshape(1, *shape)
    )


@rule(nn.LayerNorm)
class LayerNormRule(NormRule[nn.LayerNorm]):
    """Over the last axes (Ba, Kiros, Hinton, arXiv 1607.06450, eq. 3)."""

    def grouped(self, op: nn.LayerNorm, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, torch.Size(op.normalized_shape).numel())

    def affine(self, op: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        return or_default(op.weight, 1.0, x, 1, -1), or_default(op.bias, 0.0, x, 1, -1)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.LayerNorm(8), ((2, 3, 8),))
        yield Example(nn.LayerNorm((4, 3)), ((2, 4, 3),))
        yield Example(nn.LayerNorm(9, elementwise_affine=False), ((3, 9),))


@rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
class InstanceNormRule(NormRule[InstanceNorm]):
    """Over the places of each channel (Ulyanov et al., arXiv 1607.08022, eq. 5)."""

    def refuses(self, op: InstanceNorm, abstract: tuple[bool, ...]) -> str | None:
        return "it normalises by running statistics" if op.track_running_stats else super().refuses(op, abstract)

    def grouped(self, op: InstanceNorm, x: Tensor) -> Tensor:
        return x.flatten(2)

    def affine(self, op: InstanceNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        return or_default(op.weight, 1.0, x, -1, 1), or_default(op.bias, 0.0, x, -1, 1)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.InstanceNorm1d(3, affine=True), ((2, 3, 8),))
        yield Example(nn.InstanceNorm2d(8), ((2, 8, 3, 2),))
        yield Example(nn.InstanceNorm3d(2, affine=True), ((2, 2, 2, 3, 2),))
