"""Functions of arithmetic: steps, absolute value, exponential, logarithm, powers, sine and cosine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.errors import InputRejected
from pipeline.rules.curves import Curve, Kind, bent
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.relax import AffineMap, Chain, Relaxation
from pipeline.rules.rule import Example, Value, rule


@rule(ops.Sign, ops.Floor, ops.Ceil, ops.Round)
class StepRule(Elementwise[nn.Module]):
    """A nondecreasing step selects, and rounds nothing; no line serves better than its box, so that a walk stops there."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, torch.zeros_like, (), ("linear",))

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        return 0.0

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        return None

    def loose(self, op: nn.Module, x: Interval) -> Tensor:
        return op(x.lower) != op(x.upper)

    def examples(self) -> Iterator[Example]:
        for op in (ops.Sign(), ops.Floor(), ops.Ceil(), ops.Round()):
            yield Example(op, ((4, 9),))


@rule(ops.Abs)
class AbsRule(Elementwise[nn.Module]):
    """``|x|``, exact."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: torch.where(x >= 0, 1.0, -1.0).to(x), (0.0,), ("linear", "linear"), turns=(0.0,))

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        return 0.0

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Abs(), ((4, 9),))


@rule(ops.Exp)
class ExpRule(Elementwise[nn.Module]):
    """``e^x``."""

    kernel = "Exp"

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, torch.exp, (), ("convex",))

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Exp(), ((4, 9),))


@rule(ops.Log)
class LogRule(Elementwise[nn.Module]):
    """``log x`` where ``x > 0``."""

    kernel = "Log"

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, torch.reciprocal, (), ("concave",), domain="positive")

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Log(), ((4, 9),), domain=(0.05, 4.0))


@rule(ops.Sqrt)
class SqrtRule(Elementwise[nn.Module]):
    """``sqrt x`` where ``x >= 0``: IEEE's, or an estimate refined to three units in the last place, as vector libraries do."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: 0.5 / torch.sqrt(x), (), ("concave",), domain="nonnegative")

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # A subnormal operand may be read as zero.
        flushed = 2.0**-62 if rounding.deployed else 0.0
        return rounding.own_error(y, 1) + rounding.kernel_error(y, 6) + flushed

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Sqrt(), ((4, 9),), domain=(0.0, 4.0))


@rule(ops.RootOfSquares)
class RootOfSquaresRule(SqrtRule):
    """``sqrt x`` of a sum of squares, which is not negative."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return replace(super().curve(op, *constants), domain="clamped")

    def examples(self) -> Iterator[Example]:
        yield Example(ops.RootOfSquares(), ((4, 9),), domain=(0.0, 4.0))


@rule(ops.Reciprocal)
class ReciprocalRule(Elementwise[nn.Module]):
    """``1 / x`` where ``x`` is not zero: a division, or an estimate refined to three units in the last place."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: -1 / (x * x), (0.0,), ("concave", "convex"), domain="nonzero")

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        return rounding.own_error(y, 1) + rounding.kernel_error(y, 6)

    def examples(self) -> Iterator[Example]:
        for domain in ((0.2, 4.0), (-4.0, -0.2)):
            yield Example(ops.Reciprocal(), ((4, 9),), domain=domain)


@rule(ops.Pow)
class PowRule(Elementwise[nn.Module]):
    """``x^p`` for one constant ``p``: where ``x`` is not negative, unless ``p`` is whole."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        return "a power whose exponent varies has no rule" if abstract[1] else None

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        p = _exponent(*constants)
        whole, right = p == round(p), bent(p * (p - 1))
        left: Kind = right if p % 2 == 0 else bent(-p * (p - 1))
        return Curve(
            lambda x: torch.pow(x, p),
            lambda x: p * torch.pow(x, p - 1) if p else torch.zeros_like(x),
            (0.0,) if whole and left != right else (),
            (left, right) if whole and left != right else (right,),
            turns=(0.0,) if whole and p > 0 else (),
            domain=("line" if p >= 0 else "nonzero") if whole else "nonnegative" if p > 0 else "positive",
        )

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        p = _exponent(*constants)
        # ONNX Runtime multiplies for squares and cubes.
        kernel = rounding.kernel_error(y, int(p)) if p in (1, 2, 3) else rounding.kernel("Pow", y)
        return rounding.own_error(y, 1) + kernel

    def relax(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Relaxation | None:
        lines = super().relax(op, *xs, rounding=rounding)
        return None if lines is None else _OfBase(lines)

    def loose(self, op: nn.Module, x: Interval) -> Tensor:
        return x.radius > 0

    def examples(self) -> Iterator[Example]:
        for p in (1.0, 2.0, 3.0):
            yield Example(ops.Pow(), ((4, 9), torch.tensor(p)))
        negative, positive = (-4.0, -0.2), (0.2, 4.0)
        for p, domain in ((-1.0, negative), (-2.0, negative), (-2.0, positive), (0.5, (0.0, 4.0)), (-0.5, positive)):
            yield Example(ops.Pow(), ((4, 9), torch.tensor(p)), domain=domain)


def _exponent(*constants: Value) -> float:
    (p,) = constants
    assert isinstance(p, Tensor)
    if bool((p != p.reshape(-1)[0]).any()):
        raise InputRejected("a power needs one exponent for all entries; it was given several.")
    return float(p.reshape(-1)[0])


class _OfBase(Relaxation):
    """A relaxation of the first of two inputs; the second, a constant, gets no form."""

    windowed = True

    def __init__(self, base: Relaxation):
        self.base, self.start = base, base.start

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        return (*self.base.pull_back(form, alpha), None)


@dataclass(frozen=True)
class Wave(Curve):
    """A wave between -1 and 1; beyond one period the box alone bounds it."""

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
    """``sin x`` or ``cos x``, of which ``2 pi n`` is taken so that the box begins in the first period."""

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
        """The lines over the first period, moved back; their choice is left as it is."""
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
    """Where the first period begins: at a zero, the wave rising."""
    return 0.0 if isinstance(op, ops.Sin) else -math.pi / 2


def _reduced(op: nn.Module, x: Interval, rounding: Rounding) -> tuple[Interval, Tensor, Tensor]:
    """``x - 2 pi n``, the shift as it is computed, and what the two differ by at most."""
    shift = torch.floor((x.center - x.radius - _first(op)) / (2 * math.pi)) * (2 * math.pi)
    error = torch.zeros_like(shift) + rounding.own_error(x.magnitude + shift.abs(), 1)
    return Interval(x.center - shift, rounding.up(x.radius + error, 2)), shift, error
