"""Elementwise operators of two or more values (sums, products, comparisons), and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Function(nn.Module):
    """An operator without parameters: one call of a torch function."""

    function: Callable[..., Any]

    def forward(self, *xs: Tensor) -> Tensor:
        return type(self).function(*xs)


class Add(Function):
    """``a + b``, alone or as one step of a sum of several ``operands``, which a runtime may add in another order."""

    function = staticmethod(torch.add)

    def __init__(self, operands: int = 2):
        super().__init__()
        self.operands = operands


class Sub(Function):
    function = staticmethod(torch.sub)


class Mul(Function):
    function = staticmethod(torch.mul)


class Div(Function):
    function = staticmethod(torch.div)


class MatMul(Function):
    function = staticmethod(torch.matmul)


class Product(Function):
    """Mul of two values that both depend on the input: it is not affine, and so another operator than Mul."""

    function = staticmethod(torch.mul)


class Quotient(Function):
    """Div by a value that depends on the input."""

    function = staticmethod(torch.div)


class GuardedQuotient(Function):
    """Div by a norm that depends on the input; where the norm is zero, ``x`` itself."""

    @staticmethod
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x / torch.where(y == 0, 1, y)


class MatrixProduct(Function):
    """MatMul of two values that both depend on the input, batch first."""

    function = staticmethod(torch.matmul)


class Pow(Function):
    function = staticmethod(torch.pow)


class Min(Function):
    function = staticmethod(torch.minimum)


class Max(Function):
    function = staticmethod(torch.maximum)


class Where(nn.Module):
    """``x`` where the condition holds, else ``y``."""

    def forward(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(condition.bool(), x, y)


class Equal(Function):
    function = staticmethod(torch.eq)


class Greater(Function):
    function = staticmethod(torch.gt)


class Less(Function):
    function = staticmethod(torch.lt)


class GreaterOrEqual(Function):
    function = staticmethod(torch.ge)


class LessOrEqual(Function):
    function = staticmethod(torch.le)


class And(Function):
    function = staticmethod(torch.logical_and)


class Or(Function):
    function = staticmethod(torch.logical_or)


class Not(Function):
    function = staticmethod(torch.logical_not)
