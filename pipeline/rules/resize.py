"""Resize: a constant matrix along each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.core.rounding import EXACT, Rounding
from pipeline.rules.affine_rule import Affine
from pipeline.rules.multi_input import own_kernel
from pipeline.rules.rule import Example, Value, rule


@rule(ops.Resize)
class ResizeRule(Affine[ops.Resize]):
    """``y = W x`` with ``W`` the Kronecker product of one matrix for each axis, so that ``|W|`` is that of their absolute values.

    The weights come from positions that each implementation rounds in its own way. The matrices hold those of ONNX Runtime;
    unless they are ``exact``, float32 is refused. (Resize by the nearest entry is a Gather.)
    """

    def radius(self, op: ops.Resize, *xs: Value) -> Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return op.weighted(x.radius, [w.abs() for w in op.weights])

    def terms(self, op: ops.Resize, *xs: Value) -> int:
        # Our own sums go axis by axis, with one more product for each.
        return math.prod(i.shape[1] for i in op.index) + 2 * len(op.axes)

    def fan_out(self, op: ops.Resize, *xs: Value) -> int:
        reads = (torch.bincount(i.reshape(-1)).max() for i in op.index)
        return math.prod(int(r) for r in reads)

    def interval(self, op: ops.Resize, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        self._require_exact(op, rounding, *xs)
        return super().interval(op, *xs, rounding=rounding)

    def disturbance(self, op: ops.Resize, *xs: Value, rounding: Rounding) -> Tensor | None:
        self._require_exact(op, rounding, *xs)
        return super().disturbance(op, *xs, rounding=rounding)

    def _require_exact(self, op: ops.Resize, rounding: Rounding, *xs: Value) -> None:
        """Raise InputRejected (3) where float32 is promised and implementations round the weights in ways of their own."""
        (x,) = xs
        assert isinstance(x, Interval)
        if not op.exact:
            own_kernel(rounding, "Resize", x.radius)

    def examples(self) -> Iterator[Example]:
        pick, mean = torch.eye(4)[[0, 0, 1, 3, 3, 3]], torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]])
        yield Example(ops.Resize({2: pick, 3: mean}, exact=True), ((2, 8, 4, 3),))
        yield Example(ops.Resize({2: pick}), ((2, 3, 4),))
        yield Example(ops.Resize({1: mean, 2: mean[:2], 3: pick}), ((2, 3, 3, 4),))
        yield Example(ops.Resize({2: torch.randn(5, 8)}), ((2, 3, 8),))
