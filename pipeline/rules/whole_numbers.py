"""Whole numbers that come with each sample: exact where a box holds one of them alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pipeline.core import ops
from pipeline.core.fixed_integers import IntegerPart, IntegerStep
from pipeline.core.interval import Interval
from pipeline.core.network import Port
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.rule import Example, Rule, Value, rule


@rule(IntegerPart)
class IntegerPartRule(Rule[IntegerPart]):
    """Of each sample either the one value, or no bound: where an input may be another whole number, anything may follow."""

    def interval(self, op: IntegerPart, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        lower, upper = (end.round() for end in rounding.ends(x))
        alone = (lower == upper).flatten(1).all(1, keepdim=True)
        value = op(torch.where(alone, lower, 0))
        return Interval(value, torch.where(alone, 0.0, torch.inf).to(value).expand_as(value).clone())

    def examples(self) -> Iterator[Example]:
        values = torch.tensor([[-1.0, 2.0], [0.5, -3.0], [4.0, 1.0]])
        part = IntegerPart([Port("i", torch.int64, (None, 3))], [0], {1: values})
        part.steps += [IntegerStep(2, (1, 0), True), IntegerStep(3, (0,), True)]
        part.operators.extend([ops.Take(0), ops.OneHot(4, torch.tensor([-1.0, 1.0]), -1)])
        yield Example(part, ((4, 3),), domain=(0.6, 1.4))
