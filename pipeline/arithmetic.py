"""How much the evaluation of one operator may add to a half-width: what makes a bound true of floating point.

Two kinds share one interface, so that every rule is written once: ``Exact`` adds nothing (training, and comparisons of
speed), ``Outward`` adds the rounding of our own float64 computation and, where the deployed file is meant, of any float32
evaluation order of it. Notation: ``u = 2^-24``, ``w = 2^-53``, ``gamma(n, u) = n u / (1 - n u)`` (Higham, Accuracy and
Stability of Numerical Algorithms, Lemma 3.1), ``tiny = 2^-126``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.bounds import Interval
from pipeline.errors import InputRejected

Mode = Literal["float32-any-order", "real", "none"]
MODES: tuple[Mode, ...] = ("float32-any-order", "real", "none")

U32, U64 = 2.0**-24, 2.0**-53
TINY32, TINY64 = 2.0**-126, 2.0**-960
FLOAT32_MAX = 3.4028234663852886e38
# Roundings beyond the sum of products that a runtime may add to one affine output: alpha, beta, a folded BN, Mul or Add
# (six), a reciprocal square root of two ulp, a residual added into the accumulator.
SLACK = 12


def gamma(n: int, unit: float) -> float:
    """``n u / (1 - n u)``, rounded up; a count of roundings beyond ``1/8u`` is refused."""
    if n * unit > 0.125:
        raise InputRejected(
            f"an operator sums {n} terms, and rounding is bounded only below {int(0.125 / unit)}; "
            "use `--arithmetic real`, or split the layer."
        )
    return n * unit / (1 - n * unit) * (1 + 8 * U64)


@dataclass(frozen=True)
class Exact:
    """No rounding is accounted for; ends and boxes are whatever the working precision gives."""

    sound = False

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

    def refuse_unmeasured(self, operator: str) -> None:
        return None


@dataclass(frozen=True)
class Outward:
    """Every result is widened until it is true: of real arithmetic, and if ``deployed`` of float32 in any order.

    ``carried`` counts the products and additions of a producer into whose accumulator a runtime may fuse this operator;
    ``folded_scale`` is the ``|scale| / sqrt(var + eps)`` per channel of a BatchNorm that a runtime may fold into it.
    Both are facts of the graph, found by ``propagate/rounding.py`` before the walk.
    """

    deployed: bool
    carried: int = 0
    folded_scale: Tensor | None = None

    sound = True

    def ends(self, x: Interval) -> tuple[Tensor, Tensor]:
        """The two ends, each at or outside the real one."""
        return x.lower, x.upper

    def enclose(self, lower: Tensor, upper: Tensor, error: Tensor | float = 0.0) -> Interval:
        """The box around ``[lower - error, upper + error]``: ``c = (l + u)/2``, ``r = succ(max(u - c, c - l) + error)``."""
        center = (lower + upper) / 2
        return Interval(center, self.up(torch.maximum(upper - center, center - lower) + error, 3))

    def up(self, value: Tensor, roundings: int = 1) -> Tensor:
        """At least the real value of a nonnegative quantity computed with that many float64 roundings."""
        return value * (1 + 4 * (roundings + 1) * U64) + TINY64

    def own_error(self, value: Tensor, roundings: int) -> Tensor:
        """The error of our own float64 evaluation of an elementwise function, ``8 w`` for each call to the math library."""
        return value.abs() * (8 * roundings * U64) + TINY64

    def kernel_error(self, value: Tensor, roundings: int) -> Tensor | float:
        """The error of the deployed float32 evaluation of an elementwise product or sum, flushing to zero allowed."""
        return value.abs() * gamma(roundings, U32) + 2 * TINY32 if self.deployed else 0.0

    def refuse_unmeasured(self, operator: str) -> None:
        """Raise InputRejected for an activation whose float32 kernel no standard bounds, in the mode that promises float32."""
        if self.deployed:
            raise InputRejected(
                f"the float32 error of {operator} is not bounded by any standard and has not been measured on this "
                "ONNX Runtime build, so `--arithmetic float32-any-order` cannot certify it; use `--arithmetic real`."
            )

    def affine(
        self,
        center: Tensor,
        inputs: tuple[Interval | Tensor, ...],
        radius: Callable[..., Tensor],
        offset: Tensor | float,
        terms: int,
        deployed_terms: int,
    ) -> Interval:
        """The box of an affine image: ``center ± (|W|(r + g m) + g|b| + U)``, with no third product.

        ``g = 2 gamma(k+3, w) + gamma(n, u)`` where ``k`` counts the terms of our own sum and ``n`` those of the deployed
        one; ``m = |c| + r``; ``U`` pays for results flushed to zero. Proof: every leaf ``W_i x_i`` of any summation tree
        meets at most ``n`` factors ``1 + d``, ``|d| <= u``, so the evaluation errs by at most
        ``gamma(n,u)(|W| m + |b|) + U``; our own center errs by the same expression with ``w``; ``|c| <= m``.
        A sample whose partial sums might overflow float32 gets an infinite radius, which nothing certifies.
        """
        g = 2 * gamma(terms + 3, U64) + (gamma(deployed_terms, U32) if self.deployed else 0.0)
        widened = tuple(
            Interval(x.center, (x.radius + g * x.magnitude) * (1 + 2.0**-49)) if isinstance(x, Interval) else x
            for x in inputs
        )
        biggest = offset.abs() if isinstance(offset, Tensor) else abs(offset)
        spread = radius(*widened) + g * biggest
        if self.deployed:
            ones = tuple(
                Interval(torch.zeros_like(x.center[:1]), torch.ones_like(x.radius[:1])) if isinstance(x, Interval) else x
                for x in inputs
            )
            row_sum = radius(*ones)
            peak = self._peak(inputs)
            peak = peak.reshape(-1, *[1] * (center.dim() - 1))
            flushed = 2 * TINY32 * (row_sum + terms * peak + 4 * (terms + 1))
            if self.folded_scale is not None:
                flushed = flushed * (1 + 1 / self.folded_scale)
            spread = spread + flushed
            ceiling = (row_sum * peak + biggest) * (1 + 2 * g)
            if bool((ceiling >= 0.999 * FLOAT32_MAX).any()):
                magnitude = (center.abs() + spread) * 2  # at most twice what every partial sum of positive terms reaches
                exact = radius(*(self._as_radius(x) for x in inputs)) + biggest
                overflow = torch.maximum(exact * (1 + 2 * g), magnitude) >= 0.999 * FLOAT32_MAX
                spread = torch.where(overflow, torch.inf, spread)
        else:
            spread = spread + TINY64
        return Interval(center, spread * (1 + 2 * gamma(terms + 8, U64)))

    def at(self, *, carried: int, folded_scale: Tensor | None = None) -> Outward:
        """The same promise at an operator whose producer may be fused with it."""
        return replace(self, carried=carried, folded_scale=folded_scale)

    @staticmethod
    def _peak(inputs: tuple[Interval | Tensor, ...]) -> Tensor:
        peaks = [x.magnitude.flatten(1).amax(1) for x in inputs if isinstance(x, Interval)]
        return torch.stack(torch.broadcast_tensors(*peaks)).amax(0)

    @staticmethod
    def _as_radius(x: Interval | Tensor) -> Interval | Tensor:
        return Interval(torch.zeros_like(x.center), x.magnitude) if isinstance(x, Interval) else x


Rounding = Exact | Outward
EXACT = Exact()


def rounding_of(mode: Mode) -> Rounding:
    """The accounting that a mode of arithmetic stands for: ``none``, ``real``, or ``float32-any-order`` (the default)."""
    return EXACT if mode == "none" else Outward(deployed=mode == "float32-any-order")
