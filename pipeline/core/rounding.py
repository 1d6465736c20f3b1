"""How far the rounding of one operator widens a bound, so that the bound holds in floating point.

Two classes share one interface, so that every rule is written once: ``Exact`` adds nothing (training, and comparisons of
speed); ``Outward`` adds the rounding of our own float64 computation and, where the bound is to hold for the deployed file, that
of its float32 evaluation in any order. Notation: ``u = 2^-24``, ``w = 2^-53``, ``gamma(n, u) = n u / (1 - n u)`` (Higham,
Accuracy and Stability of Numerical Algorithms, Lemma 3.1), ``tiny = 2^-126``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.choices import Mode
from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.errors import InputRejected

U32, U64 = 2.0**-24, 2.0**-53
TINY32, TINY64 = 2.0**-126, 2.0**-960
FLOAT32_MAX = 3.4028234663852886e38
LARGEST_KERNEL = 2.0**126
GROUP = 64
"""How many rows of coefficients one matrix product takes together."""
SLACK = 12
"""Roundings, beyond those of the sum of products, that a runtime may add to one affine output: alpha, beta, a folded BatchNorm,
Mul or Add (six), a reciprocal square root of two ulp, a residual added into the accumulator."""
JOINED = 4
"""How many numbers around one matrix product a runtime may make its factor: each costs at most two roundings, of the slack."""


def gamma(n: int, unit: float) -> float:
    """``n u / (1 - n u)``, rounded up. Raises InputRejected (3) where ``n u > 1/8``."""
    if n * unit > 0.125:
        raise InputRejected(
            f"an operator sums {n} terms, and rounding is bounded only below {int(0.125 / unit)}; "
            "use `--arithmetic real`, or split the layer."
        )
    return n * unit / (1 - n * unit) * (1 + 8 * U64)


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
        widened = _each(inputs, lambda x: Interval(x.center, (x.radius + g * x.magnitude) * (1 + 2.0**-49)))
        spread = radius(*widened) + g * _abs(offset)
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
    ) -> Tensor:
        """The error of one affine evaluation, per output: ``g (|W| m + |b|) + U``, the disturbance of a backward walk.

        ``terms`` is the larger of fan-in and fan-out: a coefficient pulled back is itself a computed product, and its own error
        is charged here against ``|W| m``.
        """
        g = self._relative(terms + 1, deployed_terms)
        magnitude = radius(*_each(inputs, _as_radius)) + _abs(offset)
        row_sum = _row_sum(inputs, radius) if self.deployed else None
        magnitude = g * magnitude + (flush if self.deployed else 0.0)
        error = (magnitude + self._flushed(inputs, row_sum, terms)) * (1 + 2 * gamma(terms + 8, U64))
        return self._unless_overflow(error, inputs, radius, row_sum, offset, terms)

    def descend(self, const: Tensor, added: Tensor | None, coeff: Tensor, slack: Tensor | None) -> Tensor:
        """``const + added - <|A|, slack>``, rounded down; the slack includes the rounding of ``added`` itself."""
        if slack is None:
            return (
                const if added is None else self._minus(const + added, torch.zeros_like(const), 1, _sizes(const, added))
            )
        charge = dot(coeff.abs(), slack)
        size = const.abs() if added is None else _sizes(const, added)
        return self._minus(const if added is None else const + added, charge, coeff[0, 0].numel(), size)

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
        shape = constant.shape if error is None else torch.broadcast_shapes(error.shape, constant.shape)
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
        flushed = 2 * TINY32 * (row_sum + terms * _peak(inputs, row_sum.dim()) + 4 * (terms + 1))
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
        if bool((row_sum * _peak(inputs, row_sum.dim()) + _abs(offset) < limit).all()):
            return spread
        magnitude = radius(*_each(inputs, _as_radius)) + _abs(offset)
        return torch.where(magnitude < limit, spread, torch.inf)

    def at(self, *, carried: int, folded_scale: Tensor | None = None) -> Outward:
        """The same account at an operator that a runtime may fuse with its producer."""
        return replace(self, carried=carried, folded_scale=folded_scale)


Rounding = Exact | Outward
EXACT = Exact()


def rounding_of(mode: Mode, kernels: Mapping[str, tuple[float, float]] | None = None) -> Rounding:
    """The account of rounding for a mode of arithmetic: ``none``, ``real``, or ``float32-any-order`` (the default).

    ``kernels``: the measured (absolute, relative) error of each activation kernel; one that is missing is refused by name.
    """
    return EXACT if mode == "none" else Outward(deployed=mode == "float32-any-order", kernels=kernels or {})


def unmeasured(*operators: str, on: str = "this build of ONNX Runtime and these instructions") -> InputRejected:
    """The refusal of kernels whose float32 error nobody knows ``on`` the build that runs."""
    return InputRejected(
        f"the float32 error of {', '.join(operators)} is bounded by no standard, and not known for {on}, so `--arithmetic "
        f"float32-any-order` cannot certify it; measure it once by `pipeline doctor --measure-kernels {' '.join(operators)}` "
        "(minutes of CPU each), or use `--arithmetic real`."
    )


def unbounded(*operators: str) -> InputRejected:
    """The refusal of operators that each runtime evaluates in its own way, so that nothing bounds their float32 error."""
    return InputRejected(
        f"the float32 error of {', '.join(operators)} is bounded by no standard, and runtimes evaluate it each in its own "
        "way, so `--arithmetic float32-any-order` cannot certify it; use `--arithmetic real`."
    )


def dot(coeff: Tensor, value: Tensor) -> Tensor:
    """``<A, y>`` over the features: (rows, batch, *features) with (batch or 1, *features) gives (rows, batch).

    In groups of ``GROUP`` rows: libraries choose an order of summation by the number of rows, and results must not depend on how
    many rows fit into memory.
    """
    rows, batch = coeff.shape[:2]
    value = value.expand(coeff.shape[1:]).reshape(batch, 1, -1)
    # The vector on the left: on a CPU eight times as fast as on the right, and as einsum.
    parts = [
        torch.bmm(value, part.reshape(len(part), batch, -1).permute(1, 2, 0)).squeeze(1).T
        for part in coeff.split(GROUP)
    ]
    return parts[0] if rows <= GROUP else torch.cat(parts)


def _sizes(*parts: Tensor) -> Tensor:
    return torch.stack([part.abs() for part in parts]).sum(0)


def _abs(value: Tensor | float) -> Tensor | float:
    return value.abs() if isinstance(value, Tensor) else abs(value)


def _each(
    inputs: tuple[Interval | Tensor, ...], change: Callable[[Interval], Interval]
) -> tuple[Interval | Tensor, ...]:
    return tuple(change(x) if isinstance(x, Interval) else x for x in inputs)


def _as_radius(x: Interval) -> Interval:
    return Interval(torch.zeros_like(x.center), x.magnitude)


def _row_sum(inputs: tuple[Interval | Tensor, ...], radius: Callable[..., Tensor]) -> Tensor:
    """The sum of ``|W|`` in each row, for a batch of one."""
    return radius(*_each(inputs, lambda x: Interval(torch.zeros_like(x.center[:1]), torch.ones_like(x.radius[:1]))))


def _peak(inputs: tuple[Interval | Tensor, ...], rank: int) -> Tensor:
    """The largest magnitude in each sample, shaped to broadcast over an output of that rank."""
    boxes = [x for x in inputs if isinstance(x, Interval)]
    peak = torch.stack([x.magnitude.reshape(len(x.radius), -1).amax(1) for x in boxes]).amax(0)
    return peak.reshape(-1, *[1] * (rank - 1))
