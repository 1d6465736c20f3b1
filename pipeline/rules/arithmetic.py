"""Sums and products of values, where at most one factor varies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import SLACK, TINY32
from pipeline.core.interval import Interval
from pipeline.core.partial_sums import may_differ_from_zero
from pipeline.core.shapes import broadcast_shape
from pipeline.rules.affine_rule import Affine
from pipeline.rules.multi_input import copies, operand_coefficients
from pipeline.rules.relax import Window
from pipeline.rules.rule import Example, Value, rule


@rule(ops.Add, ops.Sub)
class AddRule(Affine[nn.Module]):
    """``y = a ± b``: half-widths add. A residual sum may be fused into the accumulator of the layer that feeds it."""

    def radius(self, op: nn.Module, *xs: Value) -> Tensor:
        radii = [x.radius for x in xs if isinstance(x, Interval)]
        shape = broadcast_shape(*(x.shape if isinstance(x, Tensor) else x.radius.shape for x in xs))
        total = radii[0] if len(radii) == 1 else radii[0] + radii[1]
        batch = max(r.shape[0] for r in radii)
        return total.expand(batch, *shape[1:]) if len(shape) == total.dim() else total.expand(shape)

    def terms(self, op: nn.Module, *xs: Value) -> int:
        """All operands of the sum: at each of its steps every order is charged for, whatever cancels in a later step."""
        return op.operands if isinstance(op, ops.Add) else 2

    def fan_out(self, op: nn.Module, *xs: Value) -> int:
        return copies(*xs)

    def deployed_terms(self, op: nn.Module, terms: int, carried: int) -> int:
        return terms if carried == 0 else carried + SLACK + terms

    def offset(self, op: nn.Module, *xs: Value) -> Tensor | float:
        constants = [x.abs() for x in xs if isinstance(x, Tensor)]
        return constants[0] if constants else 0.0

    def carries(self, op: nn.Module, carried: int, *xs: Value) -> int:
        return carried + 1 if carried else 0

    def transpose(self, op: nn.Module, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        return operand_coefficients((coeff, -coeff if isinstance(op, ops.Sub) else coeff), xs)

    def window(self, op: nn.Module, *xs: Value) -> Window | None:
        """A residual sum passes the window on to both operands."""
        whole = broadcast_shape(*(x.center.shape if isinstance(x, Interval) else x.shape for x in xs))[1:]
        if any(x.center.shape[1:] != whole for x in xs if isinstance(x, Interval)):
            return None
        signs = (1.0, -1.0 if isinstance(op, ops.Sub) else 1.0)
        return lambda coeff, origin: [
            (coeff * sign if isinstance(x, Interval) else None, origin) for x, sign in zip(xs, signs, strict=True)
        ]

    def examples(self) -> Iterator[Example]:
        for op in (ops.Add(), ops.Sub()):
            yield Example(op, ((3, 9), (3, 9)))
            yield Example(op, ((3, 8, 4, 4), torch.randn(8, 1, 1)))
        yield Example(ops.Sub(), (torch.randn(9), (3, 9)))
        yield Example(ops.Add(), ((3, 8, 1), (3, 8, 4)))


@rule(ops.Mul)
class MulRule(Affine[nn.Module]):
    """``y = k x`` with a constant ``k``: half-width ``|k| r``."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        return "a product of two values that both vary has no rule yet" if all(abstract) else None

    def radius(self, op: nn.Module, *xs: Value) -> Tensor:
        return op(*(x.radius if isinstance(x, Interval) else x.abs() for x in xs))

    def transpose(self, op: nn.Module, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        """The same operator on the coefficients."""
        pulled = op(*(coeff if isinstance(x, Interval) else x for x in xs))
        return operand_coefficients((pulled,) * len(xs), xs)

    def fan_out(self, op: nn.Module, *xs: Value) -> int:
        return copies(*xs)

    def deployed_terms(self, op: nn.Module, terms: int, carried: int) -> int:
        return 2

    def carries(self, op: nn.Module, carried: int, *xs: Value) -> int:
        return carried + 1 if carried else 0

    def folds_into_producer(self, op: nn.Module, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        scale = next((c for c in constants if c is not None), None)
        return None if scale is None else scale.abs().reshape(-1)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Mul(), ((3, 9), torch.randn(9)))
        yield Example(ops.Mul(), (torch.randn(8, 1, 1), (3, 8, 4, 4)))


@rule(ops.Div)
class DivRule(MulRule):
    """``y = x / k`` with a constant ``k``."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        return "a quotient by a value that varies has no rule yet" if abstract[1] else None

    def folds_into_producer(self, op: nn.Module, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        """A single number may become a factor of the matrix product before it; runtimes do not fold divisors per channel."""
        divisor = constants[1]
        return None if divisor is None or divisor.numel() != 1 else 1 / divisor.abs().reshape(-1)

    def flush(self, op: nn.Module, *xs: Value) -> Tensor | float:
        """A subnormal divisor may be read as zero: the quotient is then infinite."""
        divisor = xs[1]
        assert isinstance(divisor, Tensor)
        return torch.where(divisor.abs() < TINY32, torch.inf, 0.0).to(divisor.dtype)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Div(), ((3, 9), torch.randn(9)))


@rule(ops.Neg)
class NegRule(MulRule):
    """``y = -x``, exact."""

    def radius(self, op: nn.Module, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return x.radius

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        return None

    def folds_into_producer(self, op: nn.Module, constants: tuple[Tensor | None, ...]) -> Tensor | None:
        return None

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Neg(), ((3, 9),))


@rule(ops.MatMul)
class MatMulRule(Affine[nn.Module]):
    """``y = x C`` or ``C x`` with a constant matrix: half-width ``r |C|``."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        return "a matrix product of two values that both vary has no rule yet" if all(abstract) else None

    def radius(self, op: nn.Module, *xs: Value) -> Tensor:
        return op(*(x.radius if isinstance(x, Interval) else x.abs() for x in xs))

    def terms(self, op: nn.Module, *xs: Value) -> int:
        right = xs[1]
        shape = right.center.shape if isinstance(right, Interval) else right.shape
        return shape[-2] if len(shape) > 1 else shape[0]

    def active(self, op: nn.Module, *xs: Value) -> Tensor:
        return op(*(may_differ_from_zero(x.magnitude) if isinstance(x, Interval) else torch.ones_like(x) for x in xs))

    def fan_out(self, op: nn.Module, *xs: Value) -> int:
        left, right = (x.center.shape if isinstance(x, Interval) else x.shape for x in xs)
        varying, constant = (left, right) if isinstance(xs[0], Interval) else (right, left)
        width = 1 if len(constant) == 1 else constant[-1] if constant is right else constant[-2]
        batches = broadcast_shape(left[:-2], right[:-2])
        return width * (batches.numel() // max(varying[:-2].numel(), 1))

    def carries(self, op: nn.Module, carried: int, *xs: Value) -> int:
        return self.terms(op, *xs)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.MatMul(), ((3, 5, 6), torch.randn(6, 9)))
        yield Example(ops.MatMul(), (torch.randn(9, 5), (3, 5, 6)))
