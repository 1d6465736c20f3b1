"""Nondecreasing activations: LeakyReLU, Clip, Sigmoid, Tanh."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline import ops
from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval
from pipeline.rules.rule import Example, Monotone, Value, rule


@rule(nn.LeakyReLU)
class LeakyReLURule(Monotone[nn.LeakyReLU]):
    """``max(x, a x)``-like with any slope ``a``; a negative one is not monotone, so zero is taken in where it lies inside."""

    def interval(self, op: nn.LeakyReLU, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        if op.negative_slope >= 0:
            return super().interval(op, x, rounding=rounding)
        lower, upper = rounding.ends(x)
        at_lower, at_upper = op(lower), op(upper)
        least = torch.minimum(at_lower, at_upper)
        least = torch.where((lower <= 0) & (upper >= 0), least.clamp(max=0), least)
        greatest = torch.maximum(at_lower, at_upper)
        return rounding.enclose(least, greatest, self.error(op, torch.maximum(least.abs(), greatest.abs()), rounding))

    def error(self, op: nn.LeakyReLU, size: Tensor, rounding: Rounding) -> Tensor | float:
        return rounding.own_error(size, 1) + rounding.kernel_error(size, 1)

    def examples(self) -> Iterator[Example]:
        for slope in (0.01, 0.3, 1.5, -0.5):
            yield Example(nn.LeakyReLU(slope), ((4, 9),))


@rule(ops.Clip)
class ClipRule(Monotone[ops.Clip]):
    """``min(max(x, low), high)`` selects, and rounds nothing."""

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Clip(0.0, 6.0), ((4, 9),))
        yield Example(ops.Clip(-0.3, None), ((4, 9),))
        yield Example(ops.Clip(None, 0.2), ((4, 9),))


@rule(nn.Sigmoid)
class SigmoidRule(Monotone[nn.Module]):
    """``1 / (1 + exp(-x))``; our own evaluation is trusted to 8 w of its value."""

    kernel = "Sigmoid"

    def error(self, op: nn.Module, size: Tensor, rounding: Rounding) -> Tensor | float:
        return rounding.own_error(size, 2)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Sigmoid(), ((4, 9),))


@rule(nn.Tanh)
class TanhRule(SigmoidRule):
    """``tanh x``."""

    kernel = "Tanh"

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Tanh(), ((4, 9),))
