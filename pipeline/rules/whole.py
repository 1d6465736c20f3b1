"""The float32 error of operators that the importer composes of several, and that a runtime computes in one kernel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.affine_rule import Affine
from pipeline.rules.multi_input import own_kernel
from pipeline.rules.rule import Example, Value, rule


@rule(ops.WholeKernel)
class WholeKernelRule(Affine[ops.WholeKernel]):
    """``y = x``, with the float32 error of the kernel; refused by the operator's name where nothing bounds that error."""

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
