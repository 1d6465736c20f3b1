"""Elementwise operators: a subclass states the curve of its function; its box, its lines and their slopes follow."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, reduce
from itertools import pairwise

import torch
from torch import Tensor

from pipeline.core.floating_point import TINY32
from pipeline.core.interval import Interval
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.curves import Curve
from pipeline.rules.relax import Line, Lines, Relaxation
from pipeline.rules.rule import Op, Rule, Value

POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""For each line that a search may choose, where in the box it is closest to the curve; the default is the middle.

Where all pieces are straight, the first and the last suffice: no more than two such lines touch a hinge.
"""
OVERFLOW = 2.0**125
"""From this magnitude on float32 kernels may overflow, the reciprocal of a subnormal number among them."""


class Elementwise(Rule[Op]):
    """``y = f(x)`` in each entry: a subclass states the curve of ``f`` and the error of evaluating it."""

    kernel: str | None = None
    """The ONNX operator whose float32 kernel is no short sequence of IEEE operations, and must have been measured."""
    calls = 1
    """How many functions of the math library our own float64 evaluation calls, each with an error of at most ``8 w``."""

    @abstractmethod
    def curve(self, op: Op, *constants: Value) -> Curve:
        """The graph of ``f``."""

    def error(self, op: Op, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        """The error of an evaluation where ``|x|`` and ``|f(x)|`` are at most ``x`` and ``y``."""
        own = rounding.own_error(y, self.calls)
        return own if self.kernel is None else own + rounding.kernel(self.kernel, y)

    def interval(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        """The hull of the values at both ends and where ``f`` turns; NaN for an entry that is infinite or leaves the domain."""
        x, *constants = xs
        assert isinstance(x, Interval)
        curve = self.curve(op, *constants)
        ends = _ends(curve, x, rounding)
        image = curve.image(*ends)
        return rounding.enclose(*image, self._error(op, ends, image, rounding, *constants))

    def relax(self, op: Op, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        """The line below that is highest in the middle of the box, and the one above that is lowest there.

        ``alpha`` may choose, first for the line below and then for that above, a mean of two of the lines that are best at
        five points of the box: a mean of sound lines is sound. (Xu et al., arXiv 2011.13824, search among all slopes of a
        ReLU; for a hinge this is the same, for a curve it searches the polygon that five of its lines bound.)
        """
        x, *constants = xs
        assert isinstance(x, Interval)
        curve = self.curve(op, *constants)
        lower, upper = ends = _ends(curve, x, rounding)
        error = self._error(op, ends, curve.image(*ends), rounding, *constants)

        def below(curve: Curve, position: float = 0.5) -> Line:
            slope = curve.support(torch.lerp(lower, upper, position), lower, upper)
            return Line(slope, curve.least(slope, lower, upper, rounding=rounding) - error)

        lines = below(curve), _negated(below(-curve))

        straight = set(curve.kinds) == {"linear"}
        positions = (POSITIONS[0], POSITIONS[-1]) if straight else POSITIONS

        @cache
        def fans() -> tuple[list[Line], list[Line]]:
            under, over = (
                [_mixable(x, middle if p == 0.5 else below(side, p), middle, rounding) for p in positions]
                for side, middle in ((curve, lines[0]), (-curve, _negated(lines[1])))
            )
            return under, [_negated(line) for line in over]

        def steer(alpha: Tensor) -> tuple[Line, Line]:
            under, over = fans()
            return _mean(under, alpha[0]), _mean(over, alpha[1])

        return Lines(
            x,
            *lines,
            rounding=rounding,
            steepest=torch.maximum(*(line.slope.abs() for line in lines)),
            highest=torch.maximum(*(_offset(line).abs() for line in lines)),
            start=torch.stack([_nearest(*pair) for pair in zip(fans(), lines, strict=True)])
            if straight
            else torch.full_like(lower, 0.5).expand(2, *lower.shape),
            steer=steer,
        )

    def loose(self, op: Op, x: Interval) -> Tensor:
        """Where the box is not within one straight piece."""
        curve = self.curve(op)
        lower, upper = x.center - x.radius, x.center + x.radius
        straight = torch.zeros_like(x.radius, dtype=torch.bool)
        for kind, (low, high) in zip(curve.kinds, pairwise([-torch.inf, *curve.knots, torch.inf]), strict=True):
            if kind == "linear":
                straight |= (lower >= low) & (upper <= high)
        return (x.radius > 0) & ~straight

    def _error(
        self, op: Op, ends: tuple[Tensor, Tensor], image: tuple[Tensor, Tensor], rounding: Rounding, *constants: Value
    ) -> Tensor | float:
        """The error over a box, infinite where float32 may overflow."""
        most, size = (torch.maximum(a.abs(), b.abs()) for a, b in (ends, image))
        error = self.error(op, most, size, rounding, *constants)
        return torch.where(size < OVERFLOW, error, torch.inf) if rounding.deployed else error


def _ends(curve: Curve, x: Interval, rounding: Rounding) -> tuple[Tensor, Tensor]:
    """The ends of a box; both NaN where one is infinite (an overflow, from which nothing follows) or outside the domain."""
    lower, upper = rounding.ends(x)
    if rounding.deployed:
        # A subnormal operand may be read as zero.
        lower = torch.where(lower.abs() < TINY32, lower.clamp(max=0), lower)
        upper = torch.where(upper.abs() < TINY32, upper.clamp(min=0), upper)
    inside = lower.isfinite() & upper.isfinite()
    if curve.domain == "nonnegative":
        # The real end c - r is not negative where c >= r; rounding it outward must not step over zero.
        lower = torch.where(x.center >= x.radius, lower.clamp(min=0), lower)
        inside = inside & (lower >= 0)
    elif curve.domain == "clamped":
        lower, inside = lower.clamp(min=0), inside & (upper >= 0)
    elif curve.domain == "positive":
        inside = inside & (lower > 0)
    elif curve.domain == "nonzero":
        inside = inside & ((lower > 0) | (upper < 0))
    return torch.where(inside, lower, torch.nan), torch.where(inside, upper, torch.nan)


def _offset(line: Line) -> Tensor:
    assert line.offset is not None
    return line.offset


def _negated(line: Line) -> Line:
    return Line(-line.slope, -_offset(line))


def _mixable(box: Interval, line: Line, default: Line, rounding: Rounding) -> Line:
    """A line below, lowered by the rounding of mixing it and pulling a form through; the default where it is vertical."""
    finite = _offset(line).isfinite()
    slope, offset = (
        torch.where(finite, a, b) for a, b in ((line.slope, default.slope), (_offset(line), _offset(default)))
    )
    slack = rounding.lines_slack(box, slope.abs(), offset.abs())
    return Line(slope, offset if slack is None else offset - 4 * slack)


def _nearest(ends: Sequence[Line], default: Line) -> Tensor:
    """Which of two lines the default is, 0 or 1; for a hinge it is always one of them."""
    first, last = ((line.slope - default.slope).abs() for line in ends)
    return (last < first).to(first)


def _mean(lines: Sequence[Line], place: Tensor) -> Line:
    """The mean of the two lines nearest to a place in [0, 1], piecewise linear in it."""
    # At a tie maximum gives each side half the gradient (clamp gives none): at a line, a search sees both neighbours.
    zero = torch.zeros_like(place)
    weights = [torch.maximum(1 - (place * (len(lines) - 1) - i).abs(), zero) for i in range(len(lines))]
    total = reduce(torch.add, weights)
    slope, offset = (
        reduce(torch.add, [w * part for w, part in zip(weights, parts, strict=True)]) / total
        for parts in ([line.slope for line in lines], [_offset(line) for line in lines])
    )
    return Line(slope, offset)
