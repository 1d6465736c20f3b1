"""ReLU, with the form of its box that keeps small radii."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval
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

    def examples(self) -> Iterator[Example]:
        yield Example(nn.ReLU(), ((4, 9),))
