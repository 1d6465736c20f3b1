"""Functions of arithmetic: steps, absolute value, exponential, logarithm, roots and powers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import EXACT, Rounding
from pipeline.errors import InputRejected
from pipeline.rules.curves import Curve, Kind, bent
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.relax import Relaxation
from pipeline.rules.rule import Example, Value, rule


@rule(ops.Sign, ops.Floor, ops.Ceil, ops.Round)
class StepRule(Elementwise[nn.Module]):
    """A nondecreasing step function rounds nothing; no line is better than its box, so that a backward walk stops there."""

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
    """``sqrt x`` where ``x >= 0``, by IEEE, or to three units in the last place, as some vector libraries estimate it."""

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
    """``sqrt x`` of a sum of squares, which is never negative."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return replace(super().curve(op, *constants), domain="clamped")

    def examples(self) -> Iterator[Example]:
        yield Example(ops.RootOfSquares(), ((4, 9),), domain=(0.0, 4.0))


@rule(ops.Reciprocal)
class ReciprocalRule(Elementwise[nn.Module]):
    """``1 / x`` where ``x`` is not zero, by division, or to three units in the last place, as some libraries estimate it."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: -1 / (x * x), (0.0,), ("concave", "convex"), domain="nonzero")

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        return rounding.own_error(y, 1) + rounding.kernel_error(y, 6)

    def examples(self) -> Iterator[Example]:
        for domain in ((0.2, 4.0), (-4.0, -0.2)):
            yield Example(ops.Reciprocal(), ((4, 9),), domain=domain)


@rule(ops.Pow)
class PowRule(Elementwise[nn.Module]):
    """``x^p`` for one constant ``p``; unless ``p`` is whole, ``x`` must not be negative."""

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
    """A relaxation in the first of two inputs; the second, a constant, gets no form."""

    windowed = True

    def __init__(self, base: Relaxation):
        self.base, self.start = base, base.start

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        return (*self.base.pull_back(form, alpha), None)
