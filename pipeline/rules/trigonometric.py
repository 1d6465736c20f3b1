"""Sine and cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.curves import Curve
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.relax import AffineMap, Chain, Relaxation
from pipeline.rules.rule import Example, Value, rule


@dataclass(frozen=True)
class Wave(Curve):
    """A sine between -1 and 1; over more than one period nothing but these two numbers bounds it."""

    def least(self, slope: Tensor, lower: Tensor, upper: Tensor, *, rounding: Rounding = EXACT) -> Tensor:
        most = torch.maximum(lower.abs(), upper.abs()) * slope.abs()
        anywhere = -1 - most - rounding.own_error(1 + most, 1)
        return torch.where(_long(lower, upper), anywhere, super().least(slope, lower, upper, rounding=rounding))

    def support(self, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(_long(lower, upper), 0, super().support(target, lower, upper))


def _long(lower: Tensor, upper: Tensor) -> Tensor:
    return upper - lower >= 2 * math.pi


@rule(ops.Sin, ops.Cos)
class WaveRule(Elementwise[nn.Module]):
    """``sin x`` or ``cos x`` at ``x - 2 pi n``, with ``n`` such that the box begins in the first period."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        quarter, first = math.pi / 2, _first(op)
        return Wave(
            op,
            torch.cos if isinstance(op, ops.Sin) else lambda x: -torch.sin(x),
            tuple(first + 2 * i * quarter for i in (1, 2, 3)),
            ("concave", "convex", "concave", "convex"),
            turns=tuple(first + i * quarter for i in (1, 3, 5, 7)),
        )

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        kernel = "Sin" if isinstance(op, ops.Sin) else "Cos"
        return rounding.own_error(torch.ones_like(y), 1) + rounding.kernel(kernel, torch.ones_like(y))

    def interval(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        return super().interval(op, _reduced(op, x, rounding)[0], rounding=rounding)

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        """The lines over the first period, shifted back; ``alpha`` chooses none of them."""
        (x,) = xs
        assert isinstance(x, Interval)
        box, shift, error = _reduced(op, x, rounding)
        lines = super().relax(op, box, rounding=rounding)
        assert lines is not None
        return Chain(AffineMap(lambda coeff: (coeff,), -shift, rounding.affine_slack(error, shift), rounding), lines)

    def loose(self, op: nn.Module, x: Interval) -> Tensor:
        return x.radius > 0

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Sin(), ((4, 9),))
        yield Example(ops.Cos(), ((4, 9),), domain=(-20.0, 20.0))


def _first(op: nn.Module) -> float:
    """Where the first period begins: at a zero where the function rises."""
    return 0.0 if isinstance(op, ops.Sin) else -math.pi / 2


def _reduced(op: nn.Module, x: Interval, rounding: Rounding) -> tuple[Interval, Tensor, Tensor]:
    """The box of ``x - 2 pi n``, the computed shift, and a bound of its error."""
    shift = torch.floor((x.center - x.radius - _first(op)) / (2 * math.pi)) * (2 * math.pi)
    error = torch.zeros_like(shift) + rounding.own_error(x.magnitude + shift.abs(), 1)
    return Interval(x.center - shift, rounding.up(x.radius + error, 2)), shift, error
