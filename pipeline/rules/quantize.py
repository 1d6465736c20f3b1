"""What quantisation adds to operators that have rules already: Div, Round, Add, Clip; Sub, Mul."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pipeline import ops
from pipeline.arithmetic import EXACT, Rounding
from pipeline.bounds import Interval
from pipeline.rules.rule import Example, Monotone, Value, rule
from pipeline.rules.several import own_kernel


@rule(ops.RoundToGrid)
class RoundToGridRule(Monotone[ops.RoundToGrid]):
    """``round x``, halves to even; of real arithmetic alone, for integer kernels round where the file does not say.

    No line serves better than the box, so that a linear walk stops there.
    """

    def interval(self, op: ops.RoundToGrid, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        own_kernel(rounding, "QuantizeLinear", xs[0].center if isinstance(xs[0], Interval) else xs[0])
        return super().interval(op, *xs, rounding=rounding)

    def loose(self, op: ops.RoundToGrid, x: Interval) -> Tensor:
        return op(x.lower) != op(x.upper)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.RoundToGrid(), ((4, 9),))
