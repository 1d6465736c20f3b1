"""How far the rounding of one operator widens a bound, so that the bound holds in floating point.

Two classes share one interface, so that every rule is written once: ``Exact`` adds nothing (training, and comparisons of
speed); ``Outward`` adds the rounding of our own float64 computation and, where the bound is to hold for the deployed file, that
of its float32 evaluation in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.choices import Mode
from pipeline.core.floating_point import dot
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.outward import Outward


@dataclass(frozen=True)
class Exact:
    """No account of rounding: ends and boxes are as the working precision computes them. For methods see ``Outward``."""

    deployed = False
    carried = 0
    folded_scale = None

    def at(self, *, carried: int, folded_scale: Tensor | None = None) -> Exact:
        return self

    def ends(self, x: Interval) -> tuple[Tensor, Tensor]:
        return x.center - x.radius, x.center + x.radius

    def enclose(self, lower: Tensor, upper: Tensor, error: Tensor | float = 0.0) -> Interval:
        return Interval((lower + upper) / 2, (upper - lower) / 2)

    def up(self, value: Tensor, roundings: int = 1) -> Tensor:
        return value

    def own_error(self, value: Tensor, roundings: int) -> Tensor | float:
        return 0.0

    def kernel_error(self, value: Tensor, roundings: int) -> Tensor | float:
        return 0.0

    def kernel(self, operator: str, value: Tensor) -> Tensor | float:
        return 0.0

    def merge(self, a: LinearForm, b: LinearForm, box: Interval) -> LinearForm:
        """The sum of two forms over the same value."""
        return a + b

    def minimum(self, form: LinearForm, box: Interval) -> Tensor:
        """``min over the box of <A, y> + d  =  <A, c> - <|A|, r> + d``, shape (rows, batch)."""
        box = form.over(box)
        return form.const + dot(form.coeff, box.center) - dot(form.coeff.abs(), box.radius)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum of lower bounds."""
        return torch.stack(tuple(parts)).sum(0)

    def descend(self, const: Tensor, added: Tensor | None, coeff: Tensor, slack: Tensor | None) -> Tensor:
        """``const + added``."""
        return const if added is None else const + added

    def lines_slack(self, box: Interval, steepest: Tensor | float, highest: Tensor | float) -> Tensor | None:
        return None

    def affine_slack(self, error: Tensor | None, constant: Tensor | None) -> Tensor | None:
        return None

    def ball_minimum(self, form: LinearForm, center: Tensor, radius: float) -> Tensor:
        """``min over |y - c|_2 <= r of <A, y> + d  =  <A, c> - r |A|_2 + d``, shape (rows, batch)."""
        return form.const + dot(form.coeff, form.within(center)) - radius * form.coeff.flatten(2).norm(dim=2)


Rounding = Exact | Outward
EXACT = Exact()


def rounding_of(mode: Mode, kernels: Mapping[str, tuple[float, float]] | None = None) -> Rounding:
    """The account of rounding for a mode of arithmetic: ``none``, ``real``, or ``float32-any-order`` (the default).

    ``kernels``: the measured (absolute, relative) error of each activation kernel; one that is missing is refused by name.
    """
    return EXACT if mode == "none" else Outward(deployed=mode == "float32-any-order", kernels=kernels or {})
