"""Operators that select or repeat entries at constant positions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.rounding import EXACT, Rounding
from pipeline.errors import InputRejected
from pipeline.rules.affine_rule import Rearrange
from pipeline.rules.multi_input import copies
from pipeline.rules.rule import Example, Value, rule


@rule(ops.Gather, ops.Expand, ops.Tile)
class RepeatRule(Rearrange[nn.Module]):
    """Each output is one input, some of them several times."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        if isinstance(op, ops.Gather) and op.axis == 0:
            return "it picks along the batch"
        return "it repeats the batch" if isinstance(op, ops.Tile) and op.repeats[0] != 1 else None

    def fan_out(self, op: nn.Module, *xs: Value) -> int:
        (x,) = xs
        assert isinstance(x, Interval)
        if isinstance(op, ops.Gather):
            size = x.center.shape[op.axis]
            return int(torch.bincount((op.indices % size).reshape(-1)).max())
        return op(x.center[:1]).numel() // x.center[:1].numel()

    def interval(self, op: nn.Module, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        box, (x,) = super().interval(op, *xs, rounding=rounding), xs
        assert isinstance(x, Interval)
        if box.center.shape[0] != x.center.shape[0]:
            raise InputRejected("it repeats or drops samples, which share nothing.")
        return box

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Gather(torch.tensor([0, -1, 2, 2]), 1), ((3, 9),))
        yield Example(ops.Gather(torch.tensor([[1, 1], [1, 0]]), -1), ((2, 8, 3),))
        yield Example(ops.Gather(torch.tensor(-2), 2), ((2, 3, 8),))
        yield Example(ops.Expand((1, 8, -1)), ((3, 1, 4),))
        yield Example(ops.Tile((1, 2, 3)), ((2, 3, 4),))


@rule(ops.Where)
class WhereRule(Rearrange[ops.Where]):
    """``x`` where a constant condition holds, ``y`` elsewhere."""

    def refuses(self, op: ops.Where, abstract: tuple[bool, ...]) -> str | None:
        return "its condition varies" if abstract[0] else None

    def radius(self, op: ops.Where, *xs: Value) -> Tensor:
        condition, *sides = xs
        return op(condition, *(x.radius if isinstance(x, Interval) else torch.zeros_like(x) for x in sides))

    def fan_out(self, op: ops.Where, *xs: Value) -> int:
        return copies(*xs)

    def offset(self, op: ops.Where, *xs: Value) -> Tensor | float:
        condition, *sides = xs
        if all(isinstance(x, Interval) for x in sides):
            return 0.0
        return op(condition, *(x.abs() if isinstance(x, Tensor) else torch.zeros_like(x.center[:1]) for x in sides))

    def examples(self) -> Iterator[Example]:
        condition = torch.randn(9) > 0
        yield Example(ops.Where(), (condition, (3, 9), (3, 9)))
        yield Example(ops.Where(), (condition, (3, 9), torch.randn(9)))
        yield Example(ops.Where(), (torch.randn(8, 4) > 0, torch.randn(()), (3, 8, 1)))
