"""Quotients of two values: the product of the dividend and the reciprocal of the divisor, which lies between two lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.core.shapes import broadcast_shape
from pipeline.rules.bilinear import ProductRule
from pipeline.rules.multi_input import as_box
from pipeline.rules.relax import Line, Lines, Relaxation
from pipeline.rules.rule import Example, Rule, Value, rule


@dataclass(frozen=True, eq=False)
class QuotientRelaxation(Relaxation):
    """``x / y`` as ``x`` times ``w = 1 / y``."""

    product: Relaxation
    w: Interval
    reciprocal: Relaxation | None
    """``w`` over the divisor; None where that is a constant."""
    rounding: Rounding

    @property
    def start(self) -> Tensor | None:  # type: ignore[override]
        return self.product.start

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        x, w = self.product.pull_back(form, alpha)
        assert w is not None
        if self.reciprocal is not None:
            return (x, *self.reciprocal.pull_back(w))
        assert x is not None
        return LinearForm(x.coeff, self.rounding.total([x.const, self.rounding.minimum(w, self.w)])), None


@rule(ops.Quotient, ops.GuardedQuotient)
class QuotientRule(Rule[nn.Module]):
    """``x / y`` where the box of ``y`` does not contain zero, else NaN."""

    def interval(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        return ProductRule().interval(op, xs[0], _reciprocal(xs[1], rounding), rounding=rounding)

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        x, y = xs
        if isinstance(y, Tensor):  # a form over it needs a batch
            y = y.expand(broadcast_shape(as_box(x).center.shape, y.shape))
        w = _reciprocal(y, rounding)
        lines = _reciprocal_lines(y, rounding) if isinstance(y, Interval) else None
        return QuotientRelaxation(ProductRule().relax(op, x, w, rounding=rounding), w, lines, rounding)

    def examples(self) -> Iterator[Example]:
        for op in (ops.Quotient(), ops.GuardedQuotient()):
            yield Example(op, ((3, 9), torch.randn(9)))  # the box of a divisor that varies would contain zero


def _one_side(y: Interval, rounding: Rounding) -> tuple[Tensor, Tensor, Tensor]:
    """The least and the greatest ``|y|`` over the box and the sign of ``y``; NaN where zero is inside."""
    lower, upper = rounding.ends(y)
    sign = torch.where(lower > 0, 1.0, torch.where(upper < 0, -1.0, torch.nan)).to(lower)
    return torch.where(sign > 0, lower, -upper), torch.where(sign > 0, upper, -lower), sign


def _reciprocal(y: Value, rounding: Rounding) -> Interval:
    """The box of ``1 / y`` in real arithmetic: the deployed quotient rounds once, which the product is charged for."""
    if isinstance(y, Tensor):
        box = Interval(1 / y, torch.zeros_like(y))
        return Interval(box.center, rounding.up(torch.zeros_like(y) + rounding.own_error(box.center, 1)))
    least, greatest, sign = _one_side(y, rounding)
    box = rounding.enclose(1 / greatest, 1 / least, rounding.own_error(1 / least, 1))
    return Interval(sign * box.center, box.radius)


def _reciprocal_lines(y: Interval, rounding: Rounding) -> Relaxation:
    """``2 sqrt(k) - k y <= 1/y <= 1/l + 1/u - k y`` for positive ``y``, with ``k = 1/(l u)``; for negative ``y`` mirrored.

    The first holds for any ``k > 0`` (arithmetic and geometric mean); ``1/y`` is convex, so that both ends decide the second.
    """
    least, greatest, sign = _one_side(y, rounding)
    k = 1 / least / greatest
    below, above = 2 * k.sqrt(), torch.maximum(1 / least + k * least, 1 / greatest + k * greatest)
    below, above = below - rounding.own_error(below, 2), above + rounding.own_error(above, 2)
    lines = Line(-k, torch.where(sign > 0, below, -above)), Line(-k, torch.where(sign > 0, above, -below))
    return Lines(y, *lines, rounding=rounding, steepest=k, highest=above)
