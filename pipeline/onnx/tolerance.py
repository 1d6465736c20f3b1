"""Tolerances of nodes whose float32 kernel no standard bounds, relative to each entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.core.floating_point import U32, gamma
from pipeline.core.interval import Interval
from pipeline.onnx.kernels import OPERATORS

TOLERANCE = 2.0**-18
TOLERANCE_WITHOUT_RULE = 2.0**-13
"""For an operator without a rule, through which nothing is certified."""
Value = Interval | Tensor
"""A box of values that vary continuously; integers, booleans and constants as tensors."""


class Tolerated(Mapping[str, tuple[float, float]]):
    """A table of kernel errors with an entry for every kernel; ``used`` is set once a rule looked one up."""

    def __init__(self, op: nn.Module, args: Sequence[Value]):
        self.used, self._op, self._args = False, op, args

    def __getitem__(self, operator: str) -> tuple[float, float]:
        if operator == "QuantizeLinear":
            # The runtime rounds a quotient as the file says, and a box around a point contains both sides of a tie.
            return 0.0, 0.0
        self.used = True
        # ONNX Runtime keeps a running sum over the channels of an LRN, which loses small numbers behind large ones.
        relative = 2.0**-8 if operator == "LRN" else max(TOLERANCE, gamma(self._terms() + 64, U32))
        pivot = OPERATORS[operator].pivot if operator in OPERATORS else 1.0 if operator == "LogSoftmax" else 0.0
        return relative * min(pivot, 1.0), relative

    def __contains__(self, operator: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def _terms(self) -> int:
        """How many numbers a Softmax sums."""
        dim, (x, *_) = getattr(self._op, "dim", None), self._args
        return x.center.shape[dim] if isinstance(dim, int) and isinstance(x, Interval) else 0


_GROUPS = (nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def widen_inputs(op: nn.Module, args: Sequence[Value]) -> Sequence[Value]:
    """Inputs of a normalisation, widened by a few units in the last place of the largest of their group.

    Deviations from a mean lose what cancels, and so does a variance taken as ``E[x^2] - E[x]^2``, as ONNX Runtime did up to
    1.26: relative to the deviations by ``max|x| / sd`` more.
    """
    if not isinstance(op, _GROUPS):
        return args
    (x,) = args
    assert isinstance(x, Interval)
    rank = len(op.normalized_shape) if isinstance(op, nn.LayerNorm) else x.center.dim() - 2
    dims = tuple(range(-rank, 0))
    peak = x.magnitude.amax(dims, keepdim=True)
    spread = (x.center.var(dims, correction=0, keepdim=True) + op.eps).sqrt()
    return [Interval(x.center, x.radius + 16 * U32 * peak * (1 + peak / spread))]


def sum_of_magnitudes(op: nn.Module, points: Sequence[Tensor]) -> Tensor:
    """The operator on magnitudes, of parameters, buffers and inputs: for a sum of products, the sum of the terms' magnitudes."""
    magnitudes = {n: v.abs() for n, v in (*op.named_parameters(), *op.named_buffers()) if v.is_floating_point()}
    output: Tensor = torch.func.functional_call(
        op, magnitudes, tuple(p.abs() if p.is_floating_point() else p for p in points)
    )
    return output.abs()
