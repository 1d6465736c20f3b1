"""The float32 error of operators that are put together of several here, and computed in one kernel by a runtime."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.rounding import EXACT, Outward, Rounding
from pipeline.rules.multi_input import own_kernel
from pipeline.rules.rule import Affine, Example, Value, rule


@rule(ops.WholeKernel)
class WholeKernelRule(Affine[ops.WholeKernel]):
    """``y = x``, refused by the operator's name where float32 is promised and nothing bounds its kernel."""

    def radius(self, op: ops.WholeKernel, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return x.radius

    def interval(self, op: ops.WholeKernel, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        return Interval(x.center, rounding.up(x.radius + own_kernel(rounding, op.operator, x.magnitude)))

    def disturbance(self, op: ops.WholeKernel, *xs: Value, rounding: Rounding) -> Tensor | None:
        (x,) = xs
        assert isinstance(x, Interval)
        if not isinstance(rounding, Outward):
            return None
        return torch.zeros_like(x.radius) + own_kernel(rounding, op.operator, x.magnitude)

    def examples(self) -> Iterator[Example]:
        yield Example(ops.WholeKernel("ReduceProd"), ((3, 9),))
