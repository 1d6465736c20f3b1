"""What rules for several values have in common: broadcast operands, constants among them, negation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.floating_point import dot, unbounded
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward
from pipeline.core.rounding import Rounding
from pipeline.core.shapes import broadcast_shape
from pipeline.errors import InputRejected
from pipeline.rules.relax import Relaxation
from pipeline.rules.rule import Value


def as_box(x: Value) -> Interval:
    """The value as a box, of radius zero for a constant."""
    return x if isinstance(x, Interval) else Interval(x, torch.zeros_like(x))


def broadcast(*xs: Value) -> list[Interval]:
    """All values as boxes of one shape."""
    boxes = [as_box(x) for x in xs]
    shape = broadcast_shape(*(x.center.shape for x in boxes))
    return [Interval(x.center.expand(shape), x.radius.expand(shape)) for x in boxes]


def copies(*xs: Value) -> int:
    """The most times that broadcasting repeats an entry of a value that varies."""
    size = math.prod(broadcast_shape(*(x.center.shape if isinstance(x, Interval) else x.shape for x in xs)))
    return max(size // max(x.center.numel(), 1) for x in xs if isinstance(x, Interval))


def _unbroadcast(coeff: Tensor, shape: Sequence[int]) -> Tensor:
    """Coefficients over the broadcast value, (rows, *its shape), as coefficients over the value: those of copies are added."""
    if coeff.dim() != len(shape) + 1 or coeff.shape[1] != shape[0]:
        raise InputRejected("a value that varies is broadcast over the batch; give it as many axes as the others.")
    return coeff.sum_to_size(len(coeff), *shape)


def constant_part(shares: Sequence[Tensor], operands: Sequence[Value]) -> Tensor | float:
    """``<A_i, c_i>`` summed over the operands that are constants."""
    parts = [dot(a, x.expand(a.shape[1:])) for a, x in zip(shares, operands, strict=True) if isinstance(x, Tensor)]
    return torch.stack(parts).sum(0) if parts else 0.0


def operand_forms(shares: Sequence[Tensor], operands: Sequence[Value], const: Tensor) -> tuple[LinearForm | None, ...]:
    """One form for each operand that varies, the first with the constant; None for operands that are constants.

    Raises InputRejected (3) for an operand that is broadcast over the batch.
    """
    forms: list[LinearForm | None] = []
    for coeff in operand_coefficients(shares, operands):
        forms.append(None if coeff is None else LinearForm(coeff, const))
        const = const if coeff is None else torch.zeros_like(const)
    return tuple(forms)


def operand_coefficients(shares: Sequence[Tensor], operands: Sequence[Value]) -> tuple[Tensor | None, ...]:
    """Coefficients over the result, one share for each operand, as coefficients over the operands; None for constants.

    Raises InputRejected (3) for an operand that is broadcast over the batch.
    """
    return tuple(
        _unbroadcast(a, x.center.shape) if isinstance(x, Interval) else None
        for a, x in zip(shares, operands, strict=True)
    )


def negate(x: Value) -> Value:
    """``-x``, exact."""
    return Interval(-x.center, x.radius) if isinstance(x, Interval) else -x


@dataclass(frozen=True, eq=False)
class Negated(Relaxation):
    """``-f(-x)`` from the relaxation of ``f`` over ``-x``: signs go in and out, exact."""

    of: Relaxation

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        pulled = self.of.pull_back(LinearForm(-form.coeff, form.const), alpha)
        return tuple(None if f is None else LinearForm(-f.coeff, f.const) for f in pulled)


def own_kernel(rounding: Rounding, operator: str, value: Tensor) -> Tensor | float:
    """The float32 error of an operator that is a whole program of its own. Raises InputRejected where nothing bounds it."""
    if isinstance(rounding, Outward) and rounding.deployed and operator not in rounding.kernels:
        raise unbounded(operator)
    return rounding.kernel(operator, value)
