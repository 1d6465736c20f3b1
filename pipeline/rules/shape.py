"""Operators that only move or copy entries, and those that change no value."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from pipeline.core import ops
from pipeline.core.interval import Interval
from pipeline.rules.affine_rule import Affine, Rearrange
from pipeline.rules.rule import Example, Value, rule

SAME_ORDER = (ops.Reshape, ops.Squeeze, ops.Unsqueeze, nn.Flatten, nn.Identity)
"""Operators that keep every entry, in the same order."""


@rule(
    ops.Reshape,
    ops.Transpose,
    ops.Squeeze,
    ops.Unsqueeze,
    ops.Slice,
    ops.Concat,
    ops.Pad,
    ops.DepthToSpace,
    ops.SpaceToDepth,
    nn.Flatten,
    nn.Identity,
)
class ShapeRule(Rearrange[nn.Module]):
    """Each output is one input or a constant."""

    def refuses(self, op: nn.Module, abstract: tuple[bool, ...]) -> str | None:
        if isinstance(op, ops.Transpose) and op.perm[0] != 0:
            return "it moves the batch axis"
        if isinstance(op, ops.Reshape) and op.shape[0] != 0:
            return "it folds the batch into another axis"
        if isinstance(op, ops.Pad) and not math.isfinite(op.value):
            return "it pads with an infinite value"
        if isinstance(op, ops.Concat) and op.dim == 0:
            return "it joins along the batch"
        return None

    def fan_out(self, op: nn.Module, *xs: Value) -> int:
        if isinstance(op, ops.Pad) and op.mode != "constant":
            return 1 + max(op.pads) * len(op.pads)  # reflected and replicated entries are copies
        return 1

    def offset(self, op: nn.Module, *xs: Value) -> torch.Tensor | float:
        if isinstance(op, ops.Pad) and op.value:
            return torch.tensor(abs(op.value))
        return super().offset(op, *xs)

    def transpose(self, op: nn.Module, coeff: torch.Tensor, *xs: Value) -> tuple[torch.Tensor | None, ...]:
        if isinstance(op, SAME_ORDER) and isinstance(xs[0], Interval):
            return (coeff.reshape(len(coeff), *xs[0].center.shape),)
        if isinstance(op, ops.Transpose):
            back = sorted(range(len(op.perm)), key=lambda axis: op.perm[axis] % len(op.perm))
            return (coeff.permute(0, *(axis + 1 for axis in back)),)
        return super().transpose(op, coeff, *xs)

    def radius(self, op: nn.Module, *xs: Value) -> torch.Tensor:
        if isinstance(op, ops.Pad):
            (x,) = xs
            assert isinstance(x, Interval)
            return ops.Pad(op.pads, mode=op.mode)(x.radius)
        return super().radius(op, *xs)

    def examples(self) -> Iterator[Example]:
        image = (2, 8, 4, 3)
        yield Example(ops.Reshape((0, -1)), (image,))
        yield Example(ops.Reshape((0, 24, -1)), (image,))
        yield Example(ops.Transpose((0, 2, 3, 1)), (image,))
        yield Example(ops.Squeeze((1,)), ((3, 1, 9),))
        yield Example(ops.Unsqueeze((1, -1)), ((3, 9),))
        yield Example(ops.Slice((1, 0), (7, 4), (1, 2), (2, 1)), (image,))
        yield Example(ops.Slice((-1,), (-(2**31),), (1,), (-1,)), (image,))
        yield Example(ops.Concat(1), ((2, 3, 4), (2, 5, 4)))
        yield Example(ops.Concat(1), (torch.randn(2, 1, 4), (2, 5, 4)))
        yield Example(ops.Pad((1, 2, 0, 1)), (image,))
        yield Example(ops.Pad((1, 1), value=-0.7), ((3, 9),))
        yield Example(ops.Pad((1, 1, 1, 1), mode="replicate"), (image,))
        yield Example(ops.Pad((2, 1, 0, 3), mode="circular"), (image,))
        yield Example(ops.DepthToSpace(2), (image,))
        yield Example(ops.DepthToSpace(2, columns_first=True), (image,))
        yield Example(ops.SpaceToDepth(2), ((2, 3, 4, 6),))
        yield Example(nn.Flatten(), (image,))
        yield Example(nn.Identity(), ((3, 9),))


@rule(ops.Cast)
class CastRule(Affine[ops.Cast]):
    """Between float32 and float64, the identity in real arithmetic; the deployed Cast may round once."""

    def refuses(self, op: ops.Cast, abstract: tuple[bool, ...]) -> str | None:
        return None if op.keeps_precision else f"a Cast to {str(op.dtype).removeprefix('torch.')} rounds"

    def radius(self, op: ops.Cast, *xs: Value) -> torch.Tensor:
        (x,) = xs
        assert isinstance(x, Interval)
        return x.radius

    def deployed_terms(self, op: ops.Cast, terms: int, carried: int) -> int:
        return 1

    def carries(self, op: ops.Cast, carried: int, *xs: Value) -> int:
        return carried  # a runtime may drop the Cast, and fuse the operators on either side

    def examples(self) -> Iterator[Example]:
        yield Example(ops.Cast(torch.float32), ((3, 9),))
