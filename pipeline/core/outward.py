"""The account that widens bounds until they hold in floating point: of our own float64, and of a file's float32 in any order.

Notation as in ``floating_point.py``: ``u``, ``w``, ``gamma``, ``tiny``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.core.floating_point import FLOAT32_MAX, LARGEST_KERNEL, TINY32, TINY64, U32, U64, dot, gamma, unmeasured
from pipeline.core.interval import Interval, each_box, magnitude_as_radius, peak, size_of
from pipeline.core.linear_form import LinearForm
from pipeline.core.partial_sums import PartialSums
from pipeline.core.shapes import broadcast_shape


@dataclass(frozen=True)
class Outward:
    """Every result is widened until it holds in real arithmetic, and if ``deployed`` in float32 in any order of evaluation.

    ``carried`` counts the products and additions of a producer into whose accumulator a runtime may fuse this operator;
    ``folded_scale`` is the ``|scale| / sqrt(var + eps)`` per channel of a BatchNorm that a runtime may fold into it.
    Both are facts of the graph, which ``bounds/float32_sites.py`` collects before the walk.
    """

    deployed: bool
    carried: int = 0
    folded_scale: Tensor | None = None
    folded_peak: float = 1.0
    """The largest product of such scales."""
    moved: tuple[float, float] = (1.0, 1.0)
    """The least and the greatest product of the constant factors before a matrix product that a runtime may apply after it."""
    kernels: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The measured error of each float32 activation kernel: absolute, and relative to its exact value."""

    def ends(self, x: Interval) -> tuple[Tensor, Tensor]:
        """The two ends, each rounded outward."""
        return x.lower, x.upper

    def enclose(self, lower: Tensor, upper: Tensor, error: Tensor | float = 0.0) -> Interval:
        """The box around ``[lower - error, upper + error]``: ``c = (l + u)/2``, ``r = succ(max(u - c, c - l) + error)``."""
        center = (lower + upper) / 2
        return Interval(center, self.up(torch.maximum(upper - center, center - lower) + error, 3))

    def up(self, value: Tensor, roundings: int = 1) -> Tensor:
        """An upper bound of the real value of a nonnegative quantity that was computed with so many float64 roundings."""
        return value * (1 + 4 * (roundings + 1) * U64) + TINY64

    def own_error(self, value: Tensor, roundings: int) -> Tensor:
        """The error of our own float64 evaluation of an elementwise function: ``8 w |f|`` for each call to the math library."""
        return value.abs() * (8 * roundings * U64) + TINY64

    def kernel_error(self, value: Tensor, roundings: int) -> Tensor | float:
        """The error of the deployed float32 evaluation of elementwise products and sums, whether it flushes to zero or not."""
        return value.abs() * gamma(roundings, U32) + 2 * TINY32 if self.deployed else 0.0

    def kernel(self, operator: str, value: Tensor) -> Tensor | float:
        """What the deployed float32 kernel of an activation may err by, where its exact value is at most ``value``.

        ``absolute + relative |f|`` as measured, a subnormal argument or result flushed to zero included; infinite beyond
        ``2^126``, where kernels overflow early. Raises InputRejected in the mode that promises float32 if the kernel was
        not measured on this ONNX Runtime build.
        """
        if not self.deployed:
            return 0.0
        absolute, relative = self.measured(operator)
        error = (value.abs() * relative + absolute) * (1 + 8 * U64) + 4 * TINY32
        return torch.where(value.abs() <= LARGEST_KERNEL, error, torch.inf)

    def measured(self, operator: str) -> tuple[float, float]:
        """The error of a kernel, absolute and relative. Raises InputRejected if it was not measured on this build."""
        if operator not in self.kernels:
            raise unmeasured(operator)
        return self.kernels[operator]

    def affine(
        self,
        center: Tensor,
        inputs: tuple[Interval | Tensor, ...],
        radius: Callable[..., Tensor],
        offset: Tensor | float,
        terms: int,
        deployed_terms: int,
        flush: Tensor | float = 0.0,
    ) -> Interval:
        """The box of an affine image: ``center ± (|W|(r + g m) + g|b| + U + flush)``, with no third product.

        ``g = 2 gamma(k+3, w) + gamma(n, u)`` where ``k`` counts the terms of our own sum and ``n`` those of the deployed
        one; ``m = |c| + r``; ``U`` covers results flushed to zero. Proof: every leaf ``W_i x_i`` of any summation tree
        meets at most ``n`` factors ``1 + d``, ``|d| <= u``, so the evaluation errs by at most
        ``gamma(n,u)(|W| m + |b|) + U``; our own center errs by the same expression with ``w``; ``|c| <= m``.
        A sample whose partial sums might overflow float32 gets an infinite radius, which nothing certifies. ``flush`` is
        the error of reading the operator's own subnormal constants as zero.
        """
        g = self._relative(terms, deployed_terms)
        widened = each_box(inputs, lambda x: Interval(x.center, (x.radius + g * x.magnitude) * (1 + 2.0**-49)))
        spread = radius(*widened) + g * size_of(offset)
        spread = spread + (flush if self.deployed else 0.0)
        row_sum = _row_sum(inputs, radius) if self.deployed else None
        spread = (spread + self._flushed(inputs, row_sum, terms)) * (1 + 2 * gamma(terms + 8, U64))
        return Interval(center, self._unless_overflow(spread, inputs, radius, row_sum, offset, terms))

    def affine_error(
        self,
        inputs: tuple[Interval | Tensor, ...],
        radius: Callable[..., Tensor],
        offset: Tensor | float,
        terms: int,
        deployed_terms: int,
        flush: Tensor | float = 0.0,
        sums: PartialSums | None = None,
    ) -> Tensor:
        """The error of one affine evaluation, per output: ``g (|W| m + |b|) + U``, the disturbance of a backward walk.

        ``terms`` is the larger of fan-in and fan-out: a coefficient pulled back is itself a computed product, and its own error
        is charged here against ``|W| m``. What partial ``sums`` lose counts instead where it is less.
        """
        magnitude = radius(*each_box(inputs, magnitude_as_radius)) + size_of(offset)
        row_sum = _row_sum(inputs, radius) if self.deployed else None
        charged = self._relative(terms + 1, deployed_terms) * magnitude
        if sums is not None and self.deployed:
            own = 2 * gamma(terms + 4, U64) * magnitude
            charged = torch.minimum(charged, own + sums.lost(magnitude, deployed_terms))
        charged = charged + (flush if self.deployed else 0.0)
        error = (charged + self._flushed(inputs, row_sum, terms)) * (1 + 2 * gamma(terms + 8, U64))
        return self._unless_overflow(error, inputs, radius, row_sum, offset, terms)

    def descend(self, const: Tensor, added: Tensor | None, coeff: Tensor, slack: Tensor | None) -> Tensor:
        """``const + added - <|A|, slack>``, rounded down; the slack includes the rounding of ``added`` itself."""
        size = const.abs() if added is None else const.abs() + added.abs()
        total = const if added is None else const + added
        if slack is not None:
            return self._minus(total, dot(coeff.abs(), slack), coeff[0, 0].numel(), size)
        return const if added is None else self._minus(total, torch.zeros_like(const), 1, size)

    def lines_slack(self, box: Interval, steepest: Tensor | float, highest: Tensor | float) -> Tensor | None:
        """The rounding of pulling a form back through lines ``a x + b``, per entry: of the products ``A a`` and sums of ``A b``.

        ``2w |a| m`` for the coefficient, ``gamma(n + 4, w) |b|`` for the constant, with ``m = |c| + r``.
        """
        size = box.magnitude
        return (size * steepest * (4 * U64) + highest * (2 * gamma(size[0].numel() + 6, U64)) + TINY64).expand_as(size)

    def affine_slack(self, error: Tensor | None, constant: Tensor | None) -> Tensor | None:
        """The rounding of pulling a form back through ``W x + b``, per output: its error, and the sum of ``A b``."""
        if constant is None:
            return error
        shape = constant.shape if error is None else broadcast_shape(error.shape, constant.shape)
        added = constant.abs() * (2 * gamma(shape[1:].numel() + 6, U64))
        return added if error is None else error + added

    def ball_minimum(self, form: LinearForm, center: Tensor, radius: float) -> Tensor:
        """``<A, c> - r |A|_2 + d``, rounded down; the norm is increased by what squares that underflow may lack."""
        least = self._plus_dot(form.const, form.coeff, form.within(center))
        norm = form.coeff.flatten(2).norm(dim=2) + 2.0**-480
        return self._minus(least, radius * norm, form.coeff[0, 0].numel())

    def merge(self, a: LinearForm, b: LinearForm, box: Interval) -> LinearForm:
        """The sum of two forms over the same value; the rounding of its coefficients is charged to the constant."""
        both = a + b
        slack = dot(both.coeff.abs(), both.over(box).magnitude) * (2 * U64)
        lowered = self._minus(both.const, slack, both.coeff[0, 0].numel(), a.const.abs() + b.const.abs())
        return LinearForm(both.coeff, lowered, both.origin)

    def minimum(self, form: LinearForm, box: Interval) -> Tensor:
        """``<A, c> - <|A|, r> + d``, rounded down: at most the minimum of the form over the box."""
        box = form.over(box)
        least = self._plus_dot(form.const, form.coeff, box.center)
        # Even an operator that only selects may flush a subnormal number to zero, which moves its output by up to tiny.
        reach = dot(form.coeff.abs(), box.radius + TINY32) if self.deployed else dot(form.coeff.abs(), box.radius)
        return self._minus(least, reach, form.coeff[0, 0].numel())

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """The sum of lower bounds, rounded down."""
        stacked = torch.stack(tuple(parts))
        slack = stacked.abs().sum(0) * (2 * len(parts) * U64)
        return self._minus(stacked.sum(0), slack, len(parts)) if len(parts) > 1 else stacked[0]

    def _plus_dot(self, const: Tensor, coeff: Tensor, value: Tensor) -> Tensor:
        n = coeff[0, 0].numel()
        size = dot(coeff.abs(), value.abs())
        slack = size * gamma(n + 4, U64)
        return self._minus(const + dot(coeff, value), slack, n, const.abs() + size)

    def _minus(self, value: Tensor, amount: Tensor, roundings: int, size: Tensor | None = None) -> Tensor:
        """At most ``value - amount``, for a nonnegative ``amount`` that is a sum of so many terms."""
        amount = amount * (1 + 2 * gamma(roundings + 4, U64))
        size = value.abs() + amount if size is None else size + amount
        return value - amount - size * (8 * U64) - TINY64

    def _relative(self, terms: int, deployed_terms: int) -> float:
        return 2 * gamma(terms + 3, U64) + (gamma(deployed_terms, U32) if self.deployed else 0.0)

    def _flushed(self, inputs: tuple[Interval | Tensor, ...], row_sum: Tensor | None, terms: int) -> Tensor | float:
        """``U``: the error of flushing products, sums and folded weights below the smallest normal number to zero.

        ``U(t) = 2 tiny (rowsum |W| + k max|t| + 4(k + 1))`` of ``W t``. Where ``t = p x`` and a runtime computes ``p (W x)``
        instead, that errs by ``|p| U(x) = 2 tiny (|p| rowsum |W| + k max|t| + 4(k + 1)|p|) <= (1 + |p|) U(t)``.
        """
        if row_sum is None:
            return TINY64
        flushed = 2 * TINY32 * (row_sum + terms * peak(inputs, row_sum.dim()) + 4 * (terms + 1))
        if self.folded_scale is not None:
            flushed = flushed * (1 + 1 / self.folded_scale)
        return flushed * (1 + self.moved[1])

    def _unless_overflow(
        self,
        spread: Tensor,
        inputs: tuple[Interval | Tensor, ...],
        radius: Callable[..., Tensor],
        row_sum: Tensor | None,
        offset: Tensor | float,
        terms: int,
    ) -> Tensor:
        """The spread, infinite wherever some order of summation might leave the range of float32.

        A mean of ``terms`` numbers may be summed before it is divided, a folded scale multiplies every partial sum, a factor
        that is applied after a product leaves its partial sums unscaled, and up to four sums may share an accumulator (a
        layer, a residual, the two constants of a BatchNorm).
        """
        if row_sum is None:
            return spread
        limit: Tensor | float = FLOAT32_MAX / (4 * terms + 4)
        if self.folded_scale is not None:
            largest = torch.where(self.folded_scale.isinf(), 0.0, self.folded_scale).max().clamp(min=self.folded_peak)
            limit = limit / float(largest.clamp(min=1))
        limit = limit * min(1.0, self.moved[0])
        if bool((row_sum * peak(inputs, row_sum.dim()) + size_of(offset) < limit).all()):
            return spread
        magnitude = radius(*each_box(inputs, magnitude_as_radius)) + size_of(offset)
        return torch.where(magnitude < limit, spread, torch.inf)

    def at(self, *, carried: int, folded_scale: Tensor | None = None) -> Outward:
        """The same account at an operator that a runtime may fuse with its producer."""
        return replace(self, carried=carried, folded_scale=folded_scale)


def _row_sum(inputs: tuple[Interval | Tensor, ...], radius: Callable[..., Tensor]) -> Tensor:
    """The sum of ``|W|`` in each row, for a batch of one."""
    return radius(*each_box(inputs, lambda x: Interval(torch.zeros_like(x.center[:1]), torch.ones_like(x.radius[:1]))))
