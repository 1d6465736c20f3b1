"""Pooling by means and sums, which is affine; for maxima see ``maxima.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.rules.affine_rule import Affine
from pipeline.rules.rule import Example, Value, rule


def _entries(size: int | tuple[int, ...], rank: int) -> int:
    return size**rank if isinstance(size, int) else math.prod(size)


AvgPool = nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d


@rule(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
class AvgPoolRule(Affine[AvgPool]):
    """The mean of a window. Its weights are nonnegative, so that ``|W| r`` is the operator on ``r``."""

    def radius(self, op: AvgPool, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return op(x.radius)

    def terms(self, op: AvgPool, *xs: Value) -> int:
        (x,) = xs
        assert isinstance(x, Interval)
        return _entries(op.kernel_size, x.center.dim() - 2) + 1  # and the division

    def fan_out(self, op: AvgPool, *xs: Value) -> int:
        return self.terms(op, *xs)

    def deployed_terms(self, op: AvgPool, terms: int, carried: int) -> int:
        return terms + 2

    def examples(self) -> Iterator[Example]:
        yield Example(nn.AvgPool2d(3, stride=2), ((2, 8, 7, 7),))
        yield Example(nn.AvgPool2d(3, stride=2, padding=1), ((2, 8, 7, 6),))
        yield Example(nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False, ceil_mode=True), ((2, 8, 6, 6),))
        yield Example(nn.AvgPool1d(2), ((2, 8, 6),))
        yield Example(nn.AvgPool3d(2), ((2, 3, 4, 4, 2),))


Reduce = ops.ReduceSum | ops.ReduceMean


@rule(ops.ReduceSum, ops.ReduceMean)
class ReduceRule(Affine[Reduce]):
    """Sum and mean over axes; again ``|W| r`` is the operator on ``r``."""

    def refuses(self, op: Reduce, abstract: tuple[bool, ...]) -> str | None:
        return "it reduces over the batch" if 0 in op.dims else None

    def radius(self, op: Reduce, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return op(x.radius)

    def terms(self, op: Reduce, *xs: Value) -> int:
        (x,) = xs
        assert isinstance(x, Interval)
        return math.prod(x.center.shape[d] for d in op.dims) + 1  # and the division

    def transpose(self, op: Reduce, coeff: Tensor, *xs: Value) -> tuple[Tensor | None, ...]:
        (x,) = xs
        assert isinstance(x, Interval)
        kept = [1 if d in op.dims else n for d, n in enumerate(x.center.shape)]
        copied = coeff.reshape(len(coeff), *kept).expand(len(coeff), *x.center.shape)
        return (copied / (x.center.numel() // math.prod(kept)) if isinstance(op, ops.ReduceMean) else copied,)

    def deployed_terms(self, op: Reduce, terms: int, carried: int) -> int:
        return terms + 2

    def examples(self) -> Iterator[Example]:
        yield Example(ops.ReduceMean((2, 3), keepdim=True), ((2, 8, 3, 4),))
        yield Example(ops.ReduceSum((1,), keepdim=False), ((3, 8),))
