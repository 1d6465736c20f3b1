"""The one operator that quantisation adds to those with rules already: Div, Round, Add, Clip; Sub, Mul."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.rounding import Rounding
from pipeline.rules.multi_input import own_kernel
from pipeline.rules.rule import Example, Monotone, rule


@rule(ops.RoundToGrid)
class RoundToGridRule(Monotone[ops.RoundToGrid]):
    """``round x``, halves to even; in real arithmetic alone, since integer kernels round where the file does not say so.

    No line is better than the box, so that a backward walk stops there.
    """

    def error(self, op: ops.RoundToGrid, size: Tensor, rounding: Rounding) -> Tensor | float:
        return own_kernel(rounding, "QuantizeLinear", size)

    def loose(self, op: ops.RoundToGrid, x: Interval) -> Tensor:
        return op(x.lower) != op(x.upper)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.RoundToGrid(), ((4, 9),))
