"""Softmax and LogSoftmax inside a network: exact boxes, and planes whose error is of second order in the box."""

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
from pipeline.rules.programs import SOFTMAX, log_softmax_error, softmax_error
from pipeline.rules.relax import Relaxation
from pipeline.rules.rule import Example, Rule, Value, rule

Op = nn.Softmax | nn.LogSoftmax
ARGUMENT = 100
"""The error of ``exp(t)`` from rounding ``t``, in units of 8 w: ``|t| < 745`` unless ``exp`` overflows or underflows."""
UNDERFLOWN = 1e-290
"""Below this the relative error of a sum of exponentials is not bounded: some may have underflowed."""


@dataclass(frozen=True, eq=False)
class Planes:
    """``M x + b`` along the last axis of n entries, ``M``: (..., n, n)."""

    matrix: Tensor
    offset: Tensor


@dataclass(frozen=True, eq=False)
class Dense(Relaxation):
    """A function of the entries along one axis between planes: ``<A, f(x)> >= <A+, below(x)> + <A-, above(x)>``."""

    below: Planes
    above: Planes
    dim: int
    slack: Tensor | None
    rounding: Rounding

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        pulled, added = torch.zeros_like(form.coeff), torch.zeros_like(form.const)
        for planes, part in ((self.below, form.coeff.clamp_min(0)), (self.above, form.coeff.clamp_max(0))):
            # With the rows next to the axis this is one matrix product.
            along = part.movedim(self.dim, -1).movedim(0, -2) @ planes.matrix
            pulled = pulled + along.movedim(-2, 0).movedim(-1, self.dim)
            added = added + dot(part, planes.offset.movedim(-1, self.dim))
        return (LinearForm(pulled, self.rounding.descend(form.const, added, form.coeff, self.slack)),)


class _ExponentialRule(Rule[Op]):
    """The common part of Softmax and LogSoftmax: an output grows with its own entry and falls with every other."""

    assumes = SOFTMAX

    def refuses(self, op: Op, abstract: tuple[bool, ...]) -> str | None:
        return "it sums over the batch" if op.dim in (None, 0) else None

    @abstractmethod
    def ends(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs where their own entry is ``lower`` and every other is ``upper``, and the reverse, along the last axis."""

    @abstractmethod
    def evaluation(self, x: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
        """What the deployed kernel may err by, where values are at most ``size``."""

    @abstractmethod
    def planes(self, x: Interval, ends: tuple[Tensor, Tensor], rounding: Rounding) -> tuple[Planes, Planes]:
        """Planes below and above each output, along the last axis; ``ends`` bound the exact values."""

    def own(self, n: int, lower: Tensor, upper: Tensor, rounding: Rounding) -> Tensor | float:
        """The error of our own float64 evaluation of the ends."""
        return rounding.own_error(torch.maximum(lower.abs(), upper.abs()), n + 2 * ARGUMENT)

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        x = _last(op, xs)
        lower, upper = self.ends(*rounding.ends(x))
        size = torch.maximum(lower.abs(), upper.abs())
        error = self.own(x.center.shape[-1], lower, upper, rounding) + self.evaluation(x, size, rounding)
        box = rounding.enclose(lower, upper, error)
        return Interval(*(v.movedim(-1, _dim(op)) for v in (box.center, box.radius)))

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        x = _last(op, xs)
        n = x.center.shape[-1]
        lower, upper = self.ends(*rounding.ends(x))
        kernel = self.evaluation(x, torch.maximum(lower.abs(), upper.abs()), rounding)
        error = self.own(n, lower, upper, rounding)
        low, high = lower - error, upper + error
        below, above = self.planes(x, (low, high), rounding)
        # At the center of the box a plane may be worse than the constant, or have overflowed.
        below = _flat_unless(_at(below, x.center) >= low, below, low - kernel, kernel)
        above = _flat_unless(_at(above, x.center) <= high, above, high + kernel, -kernel)
        size = torch.maximum(*((p.matrix.abs() @ x.magnitude[..., None])[..., 0] for p in (below, above)))
        highest = torch.maximum(below.offset.abs(), above.offset.abs()).movedim(-1, _dim(op))
        alone = Interval(torch.zeros_like(highest), size.movedim(-1, _dim(op)))
        dim = _dim(op) % x.center.dim() - x.center.dim()  # counted from the end: a form has an axis more in front
        return Dense(below, above, dim, rounding.lines_slack(alone, 2.0 * (n + 4), highest), rounding)


@rule(nn.Softmax)
class SoftmaxRule(_ExponentialRule):
    """``p_i = 1 / S_i``, ``S_i = 1 + sum_{j != i} exp(t_j)``, ``t_j = x_j - x_i``.

    Planes after Wei et al., Convex Bounds on the Softmax Function, AISTATS 2023, section 3 (its bounds "ER"): below, ``exp``
    is under its chord and ``1/S >= 2 sqrt(k) - k S`` for any ``k > 0``; above, ``1/S`` is under its
    chord and ``exp`` over its tangent. Both have the Jacobian of the center as their slope, up to first order in the box.
    """

    def evaluation(self, x: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
        return softmax_error(x, size, rounding)

    def ends(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        peak = upper.amax(-1, keepdim=True)
        most, least = (_others((rest - peak).exp()) for rest in (upper, lower))
        # Beyond exp(700), zero is a lower bound and a smaller sum gives an upper one; an infinite end makes the row NaN.
        low = torch.where(peak - lower > 700, 0.0, 1 / (1 + most * (peak - lower).exp()))
        high = 1 / (1 + least * (peak - upper).clamp_max(700).exp())
        return low + (peak - peak), high + (peak - peak)

    def planes(self, x: Interval, ends: tuple[Tensor, Tensor], rounding: Rounding) -> tuple[Planes, Planes]:
        lower, upper = rounding.ends(x)
        least, middle, most = (
            rest[..., None, :] - own[..., None] for own, rest in ((upper, lower), (x.center, x.center), (lower, upper))
        )
        chord, lift = _chord(least, most, rounding)
        k = 1 / (1 + _off(chord * middle + lift)) ** 2
        under, size = _shift_free(-k[..., None] * chord), 2 * k.sqrt() + k * (1 + _off(lift.abs()))
        offset = 2 * k.sqrt() - k * (1 + _off(lift)) - _plane_error(under, size, x, rounding)
        # exp(t) >= m t + m (1 - log m) for any m > 0, and 1/S <= a + b - a b S where 1/b <= S <= 1/a.
        tangent = middle.exp().clamp_min(UNDERFLOWN)
        touch = tangent * (1 - tangent.log()) - rounding.own_error(tangent * (1 + tangent.log().abs()), 4)
        # Less than a b is sound too: a subnormal product may be rounded up by more than its own size.
        a, b = ends[0].clamp_min(0), ends[1]
        ab = torch.nextafter(a * b, torch.zeros_like(a))
        over, size = _shift_free(-ab[..., None] * tangent), a + b + ab * (1 + _off(touch.abs()))
        above = a + b - ab * (1 + _off(touch)) + _plane_error(over, size, x, rounding)
        return Planes(under, offset), Planes(over, above)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Softmax(-1), ((3, 9),))
        yield Example(nn.Softmax(1), ((2, 8, 3),))
        yield Example(nn.Softmax(-1), ((2, 2, 3, 5),))


@rule(nn.LogSoftmax)
class LogSoftmaxRule(_ExponentialRule):
    """``log p_i = x_i - L``, ``L = log sum_j exp(x_j)``.

    Below, ``log z <= log z0 - 1 + z/z0`` with ``exp`` under its chords; above, ``L >= <q, x - log q>`` for any distribution
    ``q`` (Gibbs' inequality), here for the Softmax of the center.
    """

    def evaluation(self, x: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
        return log_softmax_error(x, size, rounding)

    def ends(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        peak = upper.amax(-1, keepdim=True)
        most, least = _others((upper - peak).exp()), _others((lower - peak).exp())
        # Sums that may have underflowed are rounded to the safe side.
        most, least = most.clamp_min(UNDERFLOWN), torch.where(least < UNDERFLOWN, 0.0, least)
        zero = torch.zeros_like(peak)
        return -torch.logaddexp(zero, most.log() + (peak - lower)), -torch.logaddexp(zero, least.log() + (peak - upper))

    def planes(self, x: Interval, ends: tuple[Tensor, Tensor], rounding: Rounding) -> tuple[Planes, Planes]:
        lower, upper = rounding.ends(x)
        peak = upper.amax(-1, keepdim=True)
        chord, lift = _chord(lower - peak, upper - peak, rounding)
        z = (chord * (x.center - peak) + lift).sum(-1, keepdim=True)
        flat, eye = (chord / z)[..., None, :], torch.eye(x.center.shape[-1], dtype=z.dtype, device=z.device)
        under = eye - flat.expand(*flat.shape[:-2], *eye.shape)
        parts = peak + z.log() - 1 + (lift / z).sum(-1, keepdim=True) - peak * flat[..., 0, :].sum(-1, keepdim=True)
        size = 2 * peak.abs() + z.log().abs() + 2 + (lift.abs() / z).sum(-1, keepdim=True)
        below = Planes(under, -parts - _plane_error(under, size, x, rounding))
        q = x.center.softmax(-1).clamp_min(UNDERFLOWN)
        # Rounded, q sums to 1 + d, and the inequality holds up to d (1 + |L|).
        entropy = -(q * q.log()).sum(-1, keepdim=True)
        size = (q * (1 + q.log().abs() + x.magnitude)).sum(-1, keepdim=True)
        over = eye - q[..., None, :].expand(*q.shape[:-1], *eye.shape)
        return below, Planes(over, -entropy + _plane_error(over, size, x, rounding))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.LogSoftmax(-1), ((3, 9),))
        yield Example(nn.LogSoftmax(1), ((2, 8, 3),))


def _dim(op: Op) -> int:
    assert op.dim is not None
    return op.dim


def _last(op: Op, xs: tuple[Value, ...]) -> Interval:
    (x,) = xs
    assert isinstance(x, Interval)
    return Interval(x.center.movedim(_dim(op), -1), x.radius.movedim(_dim(op), -1))


def _off(matrix: Tensor) -> Tensor:
    """The row sums without the diagonal."""
    return _hollow(matrix).sum(-1)


def _hollow(matrix: Tensor) -> Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))


def _others(value: Tensor) -> Tensor:
    """The sum of every other entry of the last axis, without a subtraction, which would cancel."""
    n = value.shape[-1]
    return value @ (1 - torch.eye(n, dtype=value.dtype, device=value.device))


def _shift_free(matrix: Tensor) -> Tensor:
    """The matrix with a diagonal that makes rows sum to zero, since adding a constant to all entries changes no output."""
    off = _hollow(matrix)
    return off - torch.diag_embed(off.sum(-1))


def _chord(least: Tensor, most: Tensor, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """``s, b`` of ``exp(t) <= s t + b`` on ``[least, most]``; ``exp`` is convex, so that for any ``s`` both ends decide."""
    low, high = least.exp(), most.exp()
    s = torch.where(most > least, (high - low) / (most - least), high)
    size = high + s * torch.maximum(most.abs(), least.abs())
    return s, torch.maximum(low - s * least, high - s * most) + rounding.own_error(size, ARGUMENT)


def _plane_error(matrix: Tensor, size: Tensor, x: Interval, rounding: Rounding) -> Tensor | float:
    """How far the rounding of its matrix and of the sums in its offset may move a plane, over the box."""
    m = x.magnitude
    terms = (matrix.abs() @ m[..., None])[..., 0] + matrix.abs().sum(-1) * m
    return rounding.own_error(terms + size, matrix.shape[-1] + ARGUMENT)


def _at(planes: Planes, x: Tensor) -> Tensor:
    return (planes.matrix @ x[..., None])[..., 0] + planes.offset


def _flat_unless(better: Tensor, planes: Planes, constant: Tensor, kernel: Tensor | float) -> Planes:
    """The planes, less the kernel's error, where ``better``; elsewhere the constant."""
    return Planes(
        torch.where(better[..., None], planes.matrix, 0.0), torch.where(better, planes.offset - kernel, constant)
    )
