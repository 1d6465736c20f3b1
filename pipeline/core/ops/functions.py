"""Elementwise functions of one value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.core.ops.arithmetic import Function


class Neg(Function):
    function = staticmethod(torch.neg)


class Abs(Function):
    function = staticmethod(torch.abs)


class Sign(Function):
    function = staticmethod(torch.sign)


class Floor(Function):
    function = staticmethod(torch.floor)


class Ceil(Function):
    function = staticmethod(torch.ceil)


class Round(Function):
    function = staticmethod(torch.round)


class RoundToGrid(Round):
    """The Round of a QuantizeLinear: a runtime may evaluate the operators between two of them in integers."""


class Exp(Function):
    function = staticmethod(torch.exp)


class Log(Function):
    function = staticmethod(torch.log)


class Sqrt(Function):
    function = staticmethod(torch.sqrt)


class RootOfSquares(Function):
    """The square root of a sum of squares: its argument is never negative, though by rounding its box may be."""

    function = staticmethod(torch.sqrt)


class Reciprocal(Function):
    function = staticmethod(torch.reciprocal)


class Sin(Function):
    function = staticmethod(torch.sin)


class Cos(Function):
    function = staticmethod(torch.cos)


class Atan(Function):
    function = staticmethod(torch.atan)


class Erf(Function):
    function = staticmethod(torch.erf)


class Clip(nn.Module):
    """``min(max(x, low), high)``; an end of None is infinite."""

    def __init__(self, low: float | None = None, high: float | None = None):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x if self.low is None and self.high is None else torch.clamp(x, self.low, self.high)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class Cast(nn.Module):
    """Conversion to another element type."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        # Between float32 and float64 the precision of the walk stays: a Cast must not round a float64 bound.
        return x if self.keeps_precision and x.is_floating_point() else x.to(self.dtype)

    @property
    def keeps_precision(self) -> bool:
        """Whether the target is a type that walks compute in; half precision and integers round."""
        return self.dtype in (torch.float32, torch.float64)

    def extra_repr(self) -> str:
        return str(self.dtype)


class WholeKernel(nn.Module):
    """The identity after a group of operators that a runtime computes in one kernel, named ``operator``.

    In real arithmetic the group equals the kernel; the kernel's float32 error is not the sum of the errors of the group.
    """

    def __init__(self, operator: str):
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return self.operator
