"""Products of two values that vary, elementwise and of matrices, between McCormick's planes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import FLOAT32_MAX, SLACK, TINY32, dot
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.multi_input import as_box, broadcast, constant_part, operand_forms
from pipeline.rules.relax import Relaxation
from pipeline.rules.rule import Example, Rule, Value, rule

Times = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class McCormick(Relaxation):
    """``z = x y`` between planes, for any product ``.`` that is linear in each factor.

    With ``x = c + s``, ``y = d + t``, ``|s| <= r``, ``|t| <= q`` and any ``a, b`` in [-1, 1],

        ``s t >= a (q s + r t) - r q``  and  ``s t <= b (q s - r t) + r q``,

    on each side the mean of McCormick's two planes, weighted by ``1 ± a`` or ``1 ± b`` (Math. Programming 10, 1976, p. 153).
    A form ``<A, z>`` takes both with the transposes ``left(A, y) = A y^T`` and ``right(x, A) = x^T A``: matrix products alone.
    """

    x: Interval
    y: Interval
    operands: tuple[Value, Value]
    times: Times
    left: Times
    right: Times
    rounding: Rounding
    slack: Tensor | None
    square: bool = False
    """Both factors are the same value, so that ``s^2 >= 2 a r s - a^2 r^2``."""

    @property
    def start(self) -> Tensor:  # type: ignore[override]
        center = self.times(self.x.center, self.y.center)
        return torch.full((2, *center.shape), 0.5, dtype=center.dtype, device=center.device)

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        coeff, (c, r), (d, q) = form.coeff, *((v.center, v.radius) for v in (self.x, self.y))
        rises, falls = coeff.clamp_min(0), coeff.clamp_max(0)
        spread, shares = self.times(r, q), [self.left(coeff, d), self.right(c, coeff)]
        added, penalty = -dot(coeff, self.times(c, d)), rises - falls
        if alpha is not None:
            a, b = rises * (2 * alpha[0] - 1), falls * (2 * alpha[1] - 1)
            along, across = self.left(a + b, q), self.right(r, a - b)
            shares = [shares[0] + along, shares[1] + across]
            # The planes tilt about the centers.
            added = added - dot(a + b, self.times(c, q)) - dot(a - b, self.times(r, d))
        if self.square:
            penalty = penalty - rises if alpha is None else penalty - rises + a * (2 * alpha[0] - 1)
        added = added - dot(penalty, spread) + constant_part(shares, self.operands)
        return operand_forms(shares, self.operands, self.rounding.descend(form.const, added, coeff, self.slack))


class _BilinearRule(Rule[nn.Module]):
    """A product of two values; a subclass states ``times`` and its transposes ``left`` and ``right`` (see ``McCormick``)."""

    squares = False
    """Whether the product of a value with itself is its elementwise square."""
    times: Times
    left: Times
    right: Times

    def terms(self, x: Interval, y: Interval) -> int:
        """How many products one output sums."""
        return 1

    @abstractmethod
    def hull(self, x: Interval, y: Interval, square: bool) -> tuple[Tensor, Tensor]:
        """How far the product may lie below and above the product of the centers; ``square``: both are the same value."""

    def operands(self, *xs: Value) -> list[Interval]:
        return [as_box(x) for x in xs]

    def interval(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        x, y = self.operands(*xs)
        below, above = self.hull(x, y, xs[0] is xs[1])
        center = self.times(x.center, y.center) + (above - below) / 2
        size = self.times(x.magnitude, y.magnitude)
        terms = self.terms(x, y)
        error = rounding.own_error(size, terms + 4) + self.evaluation(x, y, size, rounding)
        return Interval(center, rounding.up((below + above) / 2 + error, 3 * terms + 8))

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        x, y = self.operands(*xs)
        size = self.times(x.magnitude, y.magnitude)
        # Coefficients and constants are a few sums, each within ``size``, of no more terms than there are entries.
        terms = size[0].numel() + x.center[0].numel() + y.center[0].numel() + 3 * self.terms(x, y)
        box = Interval(torch.zeros_like(size), size)
        slack = rounding.lines_slack(box, 4.0 * terms, 8 * size)
        if slack is not None:
            slack = slack + self.evaluation(x, y, size, rounding)
        return McCormick(
            x, y, (xs[0], xs[1]), self.times, self.left, self.right, rounding, slack, self.squares and xs[0] is xs[1]
        )

    def evaluation(self, x: Interval, y: Interval, size: Tensor, rounding: Rounding) -> Tensor | float:
        """What evaluating the product in float32 may err by, operands flushed to zero included; infinite where it overflows.

        Numbers beside it that a runtime may multiply in elsewhere (``moved``, from ``p`` to ``P``) scale its operands, its sums
        and what these lose where they are subnormal, each by ``P/p`` at most; what is lost behind a number is ``1/p`` here.
        """
        if not isinstance(rounding, Outward) or not rounding.deployed:
            return 0.0
        terms = self.terms(x, y)
        m, n = x.magnitude, y.magnitude
        flushed = self.times(m, torch.ones_like(n)) + self.times(torch.ones_like(m), n) + 4 * (terms + 1)
        least, most = rounding.moved
        scale = most / least if least > 0 else math.inf
        flushed = flushed * (1 if scale == 1 else scale**2 / least)
        error = rounding.kernel_error(size, 2 if terms == 1 else terms + 1 + SLACK) + 2 * TINY32 * flushed
        return torch.where(size * scale < FLOAT32_MAX / 2, error, torch.inf)


@rule(ops.Product)
class ProductRule(_BilinearRule):
    """``z = x y``, elementwise: the hull of the four products of ends; of a square where both are the same value.

    With centers ``c, d`` and radii ``r, q`` it extends above ``c d`` by ``max(|r d + c q| + r q, |r d - c q| - r q)``, and below
    by the same with ``+`` and ``-`` exchanged inside the absolute values.
    """

    squares = True
    times = left = right = staticmethod(torch.mul)

    def operands(self, *xs: Value) -> list[Interval]:
        return broadcast(*xs)

    def hull(self, x: Interval, y: Interval, square: bool) -> tuple[Tensor, Tensor]:
        by_x, by_y, both = x.radius * y.center, x.center * y.radius, x.radius * y.radius
        along, across = (by_x + by_y).abs(), (by_x - by_y).abs()
        below, above = torch.maximum(across + both, along - both), torch.maximum(along + both, across - both)
        return (torch.minimum(below, x.center * y.center) if square else below), above

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Product(), ((3, 9), (3, 9)))
        yield Example(ops.Product(), ((3, 8, 4, 4), (3, 8, 1, 1)))
        yield Example(ops.Product(), (torch.randn(9), (3, 9)))


@rule(ops.MatrixProduct)
class MatrixProductRule(_BilinearRule):
    """``Z = X Y``: ``|Z - C D| <= |C| Q + R |D| + R Q`` (Rump, BIT 39, 1999: at most 1.5 times the hull)."""

    times = staticmethod(torch.matmul)

    @staticmethod
    def left(coeff: Tensor, y: Tensor) -> Tensor:
        return coeff @ y.mT

    @staticmethod
    def right(x: Tensor, coeff: Tensor) -> Tensor:
        return x.mT @ coeff

    def terms(self, x: Interval, y: Interval) -> int:
        return x.center.shape[-1]

    def hull(self, x: Interval, y: Interval, square: bool) -> tuple[Tensor, Tensor]:
        reach = x.center.abs() @ y.radius + x.radius @ y.magnitude
        return reach, reach

    def examples(self) -> Iterator[Example]:
        yield Example(ops.MatrixProduct(), ((2, 5, 6), (2, 6, 4)))
        yield Example(ops.MatrixProduct(), ((2, 3, 5, 4), (2, 3, 4, 5)))
        yield Example(ops.MatrixProduct(), ((2, 8, 5, 4), (2, 1, 4, 3)))
