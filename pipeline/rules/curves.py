"""Graphs of functions of one variable, cut at knots into convex, concave and straight pieces, and the lines below them.

Soundness rests on ``Curve.least`` alone: a line may have any slope, and its offset is computed soundly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from pipeline.core.floating_point import TINY32
from pipeline.core.rounding import EXACT, Rounding

Kind = Literal["convex", "concave", "linear"]
MIRRORED: dict[Kind, Kind] = {"convex": "concave", "concave": "convex", "linear": "linear"}
CUTS = 8
"""Rounds of the search for a slope; each about halves the distance of the two points that the line touches."""
COARSE, FINE = 10, 32
"""Bisections of a convex piece to find a minimum: in each round of that search, and for an offset."""


@dataclass(frozen=True)
class Curve:
    """A graph: value and derivative (from the right at a kink), knots and the kind of each piece between them.

    A knot that is not exactly a float, such as ``sqrt 2``, is off by ``d <= 2w|k|``: on the sliver between, ``f''`` has the
    wrong sign and is at most ``d sup|f'''|``, which moves a derivative by ``d^2``, far below the ``8w`` charged for it.
    """

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    knots: tuple[float, ...]
    kinds: tuple[Kind, ...]
    turns: tuple[float, ...] = ()
    """Where the function may stop rising or falling."""
    domain: Literal["line", "nonnegative", "clamped", "positive", "nonzero"] = "line"
    """Where the function has values; ``clamped``: its argument is never negative, though by rounding its box may be."""

    def __neg__(self) -> Curve:
        return replace(
            self,
            value=lambda x: -self.value(x),
            derivative=lambda x: -self.derivative(x),
            kinds=tuple(MIRRORED[kind] for kind in self.kinds),
        )

    def edges(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        """The ends of the pieces within a box; pieces outside of it have length zero."""
        return [lower, *(_nearest(k, lower, upper) for k in self.knots), upper]

    def image(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the greatest value, at an end or where the function turns; NaN unless ``lower <= upper``."""
        values = [self.value(x) for x in (lower, upper, *(_nearest(t, lower, upper) for t in self.turns))]
        # Some functions, such as sign, have a value at NaN.
        undefined = torch.where(lower <= upper, 0.0, torch.nan)
        return reduce(torch.minimum, values) + undefined, reduce(torch.maximum, values) + undefined

    def least(self, slope: Tensor, lower: Tensor, upper: Tensor, *, rounding: Rounding = EXACT) -> Tensor:
        """At most ``min over [l, u] of f(x) - slope x``, but for the error of ``f`` itself.

        A concave or straight piece has its minimum at an end. A convex one lies above its tangents: bisecting the
        derivative of ``g(x) = f(x) - slope x`` gives ``x <= y`` in ``[a, b]`` with ``g' <= 0`` at ``x`` (or ``x = a``) and
        ``g' >= 0`` at ``y`` (or ``y = b``), so that ``g >= min(g(x) + min(g'(x), 0) (y - x), g(y))`` however close they
        are. A derivative that is wrong by ``e`` costs ``e (b - a)``.
        """
        edges = self.edges(lower, upper)
        values = [self.value(x) for x in edges]
        minima = [y - slope * x for x, y in zip(edges, values, strict=True)]
        for kind, (a, b) in zip(self.kinds, pairwise(edges), strict=True):
            if kind == "convex":
                x, y = self._valley(slope, a, b, FINE)
                left, right = self.derivative(x), self.derivative(y)
                # An infinite derivative (of sqrt, at zero) is never multiplied by a length of zero.
                fall = torch.where(y > x, (left - slope).clamp(max=0) * (y - x), 0)
                error = rounding.own_error(1 + slope.abs() + left.abs() + right.abs(), 4)
                values += [self.value(x), self.value(y)]
                tangent = torch.minimum(values[-2] - slope * x + fall, values[-1] - slope * y)
                minima.append(tangent - torch.where(b > a, error * (b - a), 0))
        size = reduce(torch.maximum, [v.abs() for v in values]) + slope.abs() * torch.maximum(lower.abs(), upper.abs())
        flushed = 2 * TINY32 * slope.abs() if rounding.deployed else 0.0
        return reduce(torch.minimum, minima) - rounding.own_error(size, 2) - flushed

    @torch.no_grad()
    def support(self, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """About the slope of the line below the graph that is highest at ``target``.

        As in quickhull, a line joins two points of the graph on either side of the target; in each round the point of the graph
        furthest below the line replaces the one on its side.
        """
        if self.kinds == ("convex",):
            slope = self.derivative(target)
        else:
            left, right = lower, upper
            for _ in range(CUTS if "convex" in self.kinds else len(self.knots)):
                x = self._furthest(self._chord(left, right), left, right)
                before = x < target
                left, right = torch.where(before, x, left), torch.where(~before & (x > left), x, right)
            # Where the box is narrow the quotient of differences is mostly rounding error: keep it between the derivatives,
            # of which a kink has one on either side.
            pieces = pairwise(self.edges(lower, upper))
            steep = [self.derivative(x) for a, b in pieces for x in (a, torch.lerp(a, b, 1 - 2.0**-30))]
            slope = self._chord(left, right).clamp(reduce(torch.minimum, steep), reduce(torch.maximum, steep))
        return torch.where(slope.isfinite(), slope, 0)

    def _chord(self, left: Tensor, right: Tensor) -> Tensor:
        apart = right > left
        rise = self.value(right) - self.value(left)
        return torch.where(apart, rise / torch.where(apart, right - left, 1), self.derivative(left))

    def _furthest(self, slope: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Where ``f(x) - slope x`` is about least; ``left`` where no point is below it."""
        edges = self.edges(left, right)
        candidates = edges[1:-1]
        for kind, (a, b) in zip(self.kinds, pairwise(edges), strict=True):
            if kind == "convex":
                candidates.append(self._valley(slope, a, b, COARSE)[0])
        best, least = left, self.value(left) - slope * left
        for x in candidates:
            y = self.value(x) - slope * x
            best, least = torch.where(y < least, x, best), torch.minimum(y, least)
        return best

    def _valley(self, slope: Tensor, a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Two points of a convex piece ``[a, b]`` around the minimum of ``f(x) - slope x``; gradients flow to ``a`` and ``b``."""
        left, right = torch.zeros_like(a), torch.ones_like(a)
        with torch.no_grad():
            for _ in range(steps):
                middle = (left + right) / 2
                falling = self.derivative(torch.lerp(a, b, middle)) < slope
                left, right = torch.where(falling, middle, left), torch.where(falling, right, middle)
        return torch.lerp(a, b, left), torch.lerp(a, b, right)


def bent(sign: float) -> Kind:
    """The kind of a piece whose second derivative has that sign."""
    return "convex" if sign > 0 else "concave" if sign < 0 else "linear"


def _nearest(knot: float, lower: Tensor, upper: Tensor) -> Tensor:
    """The point of the box nearest to a knot."""
    return torch.minimum(lower.clamp(min=knot), upper)
