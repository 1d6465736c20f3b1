"""Smooth activations: the exponential and the sigmoidal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import U32
from pipeline.core.outward import Outward
from pipeline.core.rounding import Rounding
from pipeline.rules.curves import Curve, bent
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.rule import Example, Value, rule


@rule(nn.ELU)
class ELURule(Elementwise[nn.ELU]):
    """``x`` where ``x >= 0``, else ``a (e^x - 1)`` (Clevert et al., arXiv 1511.07289, eq. 15)."""

    kernel = "Elu"
    calls = 2

    def curve(self, op: nn.ELU, *constants: Value) -> Curve:
        return _exponential(op, 1.0, op.alpha, 1.0)

    def error(self, op: nn.ELU, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        assert self.kernel is not None
        # The kernel is measured for a = 1; for another a its result is multiplied, with one more rounding.
        own, kernel = rounding.own_error(y + abs(op.alpha), self.calls), rounding.kernel(self.kernel, y)
        return own + kernel * max(1.0, abs(op.alpha)) + rounding.kernel_error(y, 1)

    def examples(self) -> Iterator[Example]:
        for alpha in (0.7, 1.8, -0.6):
            yield Example(nn.ELU(alpha), ((4, 9),))


@rule(nn.CELU)
class CELURule(Elementwise[nn.CELU]):
    """``x`` where ``x >= 0``, else ``a (e^(x/a) - 1)`` (Barron, arXiv 1704.07483, eq. 2)."""

    kernel = "Celu"
    calls = 3

    def curve(self, op: nn.CELU, *constants: Value) -> Curve:
        return _exponential(op, 1.0, op.alpha, 1 / op.alpha)

    def error(self, op: nn.CELU, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # The kernel is measured for a = 1. For another a the quotient x/a and the product round; |t e^t| <= 1 for t <= 0.
        assert self.kernel is not None
        own = rounding.own_error(y + abs(op.alpha), self.calls)
        kernel = rounding.kernel(self.kernel, y) * max(1.0, abs(op.alpha))
        return own + kernel + rounding.kernel_error(y + abs(op.alpha), 4)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.CELU(0.7), ((4, 9),))


@rule(nn.SELU)
class SELURule(Elementwise[nn.Module]):
    """``s x`` where ``x >= 0``, else ``s a (e^x - 1)``, ``s`` and ``a`` fixed (Klambauer et al., arXiv 1706.02515, eq. 2)."""

    kernel = "Selu"
    calls = 3
    SCALE, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return _exponential(op, self.SCALE, self.ALPHA, 1.0)

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # The file holds both constants in float32.
        constant = 3 * U32 if isinstance(rounding, Outward) else 0.0
        return (
            super().error(op, x, y, rounding) + rounding.own_error(torch.full_like(y, 2.0), self.calls) + constant * y
        )

    def examples(self) -> Iterator[Example]:
        yield Example(nn.SELU(), ((4, 9),))


def _exponential(op: nn.Module, scale: float, alpha: float, rate: float) -> Curve:
    """``s x`` where ``x >= 0``, else ``s a (e^(b x) - 1)``."""

    def derivative(x: Tensor) -> Tensor:
        return torch.where(x >= 0, scale, scale * alpha * rate * torch.exp(rate * x.clamp(max=0)))

    return Curve(op, derivative, (0.0,), (bent(alpha), "linear"), turns=(0.0,) if alpha < 0 else ())


@rule(nn.Softplus)
class SoftplusRule(Elementwise[nn.Softplus]):
    """``log(1 + e^(b x)) / b``."""

    calls = 4

    def curve(self, op: nn.Softplus, *constants: Value) -> Curve:
        def value(x: Tensor) -> Tensor:
            x = x * op.beta
            return (x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))) / op.beta

        return Curve(value, lambda x: torch.sigmoid(x * op.beta), (), (bent(op.beta),))

    def error(self, op: nn.Softplus, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # ONNX has b = 1 alone. Beyond its threshold the module returns x, which no ONNX kernel does.
        kernel = rounding.kernel("Softplus" if op.beta == 1 else f"Softplus with beta {op.beta}", y)
        cut = torch.where(x * op.beta > op.threshold, math.exp(-op.threshold) / op.beta, torch.zeros_like(x))
        return rounding.own_error(y, self.calls) + kernel + cut

    def examples(self) -> Iterator[Example]:
        for beta in (1.0, 2.5):
            yield Example(nn.Softplus(beta), ((4, 9),))


@rule(nn.Softsign)
class SoftsignRule(Elementwise[nn.Module]):
    """``x / (1 + |x|)``."""

    kernel = "Softsign"
    calls = 2

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: (1 + x.abs()) ** -2, (0.0,), ("convex", "concave"))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Softsign(), ((4, 9),))


@rule(nn.Sigmoid)
class SigmoidRule(Elementwise[nn.Module]):
    """``1 / (1 + e^-x)``."""

    kernel = "Sigmoid"
    calls = 2

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), (0.0,), ("convex", "concave"))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Sigmoid(), ((4, 9),), domain=(-8.0, 8.0))


@rule(nn.Tanh)
class TanhRule(Elementwise[nn.Module]):
    """``tanh x``."""

    kernel = "Tanh"

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: 1 - torch.tanh(x) ** 2, (0.0,), ("convex", "concave"))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Tanh(), ((4, 9),))


@rule(ops.Atan)
class AtanRule(Elementwise[nn.Module]):
    """``atan x``."""

    kernel = "Atan"

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: 1 / (1 + x * x), (0.0,), ("convex", "concave"))

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Atan(), ((4, 9),), domain=(-6.0, 6.0))


@rule(nn.Mish)
class MishRule(Elementwise[nn.Module]):
    """``x tanh(log(1 + e^x))`` (Misra, arXiv 1908.08681); knots and turn were computed to 40 digits."""

    kernel = "Mish"
    calls = 4

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        def derivative(x: Tensor) -> Tensor:
            t = torch.tanh(F.softplus(x))
            return t + x * torch.sigmoid(x) * (1 - t * t)

        knots, turn = (-2.2563763963607931, 1.4905711794854285), -1.1924312145154952
        return Curve(op, derivative, knots, ("concave", "convex", "concave"), turns=(turn,))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Mish(), ((4, 9),), domain=(-8.0, 8.0))


@rule(ops.Erf)
class ErfRule(Elementwise[nn.Module]):
    """``erf x``, the error function."""

    kernel = "Erf"

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: 2 / math.sqrt(math.pi) * torch.exp(-x * x), (0.0,), ("convex", "concave"))

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Erf(), ((4, 9),))


@rule(nn.GELU)
class GELURule(Elementwise[nn.GELU]):
    """``x Phi(x)``, or ``x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))/2`` (Hendrycks and Gimpel, arXiv 1606.08415).

    ``f'' = phi(x) (2 - x^2)`` gives the knots of the first; those of the second, where ``f''`` changes its sign twice, and the
    turns of both were computed to 40 digits.
    """

    calls = 3

    def curve(self, op: nn.GELU, *constants: Value) -> Curve:
        def erf(x: Tensor) -> Tensor:
            return torch.special.ndtr(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)

        def tanh(x: Tensor) -> Tensor:
            scale = math.sqrt(2 / math.pi)
            t = torch.tanh(scale * (x + 0.044715 * x**3))
            return (1 + t) / 2 + x * (1 - t * t) * scale * (1 + 3 * 0.044715 * x * x) / 2

        form, knot, turn = {
            "none": (erf, math.sqrt(2), -0.7517915246935645),
            "tanh": (tanh, 1.4185040087908284, -0.7524614220710163),
        }[op.approximate]
        return Curve(op, form, (-knot, knot), ("concave", "convex", "concave"), turns=(turn,))

    def error(self, op: nn.GELU, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # 1 + erf cancels for negative x, where x Phi(x) is zero in float64 below -40.
        own = rounding.own_error(y + x.clamp(max=40), self.calls)
        return own + rounding.kernel("Gelu" if op.approximate == "none" else "FastGelu", y)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.GELU(), ((4, 9),))
        yield Example(nn.GELU("tanh"), ((4, 9),), domain=(-5.0, 5.0))
