"""ReLU, with the form of its box that keeps small radii."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval, Lockstep
from pipeline.rules.rule import Example, Rule, Value, rule


@rule(nn.ReLU)
class ReLURule(Rule[nn.ReLU]):
    """``[relu(c - r), relu(c + r)]``, written so that an active neuron's radius is untouched.

    ``r' = r`` where ``c >= r``, ``0`` where ``c <= -r``, else ``(c + r)/2``: going through the two ends would round away
    every radius below the spacing of floats around the center, nearly all of them at the first steps of a ramp.
    """

    def interval(self, op: nn.ReLU, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        active, inactive = x.center >= x.radius, x.center <= -x.radius
        half = (x.center + x.radius) / 2
        zero = torch.zeros_like(half)
        return Interval(
            torch.where(active, x.center, torch.where(inactive, zero, half)),
            torch.where(active, x.radius, torch.where(inactive, zero, rounding.up(half))),
        )

    def lockstep(self, op: nn.ReLU, *xs: Lockstep | Tensor) -> Lockstep:
        (x,) = xs
        assert isinstance(x, Lockstep)
        center, radius, *_ = _ReLUBox.apply(x.center, x.radius)
        return Lockstep(op(x.clean), center, radius)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.ReLU(), ((4, 9),))


class _ReLUBox(torch.autograd.Function):
    """The same box with its gradient in closed form: a training step on a CPU is a fifth faster by it.

    With ``p = relu(c + r)/2``: ``c' = c, r' = r`` where ``c >= r``, else both are ``p``.
    """

    @staticmethod
    def forward(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        active, half = center >= radius, (center + radius).div_(2).relu_()
        return torch.where(active, center, half), torch.where(active, radius, half), active, half > 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*output[2:])

    @staticmethod
    def backward(ctx: Any, center: Tensor, radius: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        active, reached = ctx.saved_tensors
        both = torch.where(reached, (center + radius) / 2, 0)
        return torch.where(active, center, both), torch.where(active, radius, both)
