"""Activations of a few pieces: rectifiers with a slope, clipping, the hard sigmoid and the hard swish."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.core import ops
from pipeline.core.floating_point import TINY32
from pipeline.core.outward import Outward
from pipeline.core.rounding import Rounding
from pipeline.rules.curves import Curve, Kind
from pipeline.rules.elementwise import Elementwise
from pipeline.rules.rule import Example, Value, rule


@rule(nn.LeakyReLU, nn.PReLU)
class LeakyReLURule(Elementwise[nn.Module]):
    """``x`` where ``x >= 0``, else ``a x``, one product in float32; PReLU has one ``a`` a channel (arXiv 1502.01852, eq. 1)."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        def derivative(x: Tensor) -> Tensor:
            if isinstance(op, nn.PReLU):
                slope = op.weight.reshape(-1, *[1] * (x.dim() - 2))
            else:
                assert isinstance(op, nn.LeakyReLU)
                slope = torch.full_like(x, op.negative_slope)
            return torch.where(x >= 0, 1.0, slope)

        rising = isinstance(op, nn.LeakyReLU) and op.negative_slope >= 0
        return Curve(op, derivative, (0.0,), ("linear", "linear"), turns=() if rising else (0.0,))

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # A subnormal slope may be read as zero.
        flushed = x.abs() * TINY32 if rounding.deployed else 0.0
        return rounding.own_error(y, 1) + rounding.kernel_error(y, 1) + flushed

    def examples(self) -> Iterator[Example]:
        for slope in (0.01, 1.5, -0.5):
            yield Example(nn.LeakyReLU(slope), ((4, 9),))
        yield Example(nn.PReLU(8), ((3, 8, 2, 2),))
        yield Example(nn.PReLU(), ((4, 9),))


@rule(ops.Clip, nn.ReLU6)
class ClipRule(Elementwise[nn.Module]):
    """``min(max(x, low), high)``, which rounds nothing."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        assert isinstance(op, ops.Clip | nn.ReLU6)
        ends = (op.low, op.high) if isinstance(op, ops.Clip) else (op.min_val, op.max_val)
        low, high = (absent if e is None else float(e) for e, absent in zip(ends, (-math.inf, math.inf), strict=True))
        knots = tuple(k for k in (low, high) if math.isfinite(k))
        kinds: tuple[Kind, ...] = ("linear", "linear", "linear")
        return Curve(op, lambda x: ((x >= low) & (x < high)).to(x), knots, kinds[: len(knots) + 1])

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        return 0.0

    def examples(self) -> Iterator[Example]:
        for ends in ((-0.4, 0.5), (-0.3, None), (None, 0.2)):
            yield Example(ops.Clip(*ends), ((4, 9),))
        yield Example(nn.ReLU6(), ((4, 9),))


@rule(nn.Hardsigmoid)
class HardsigmoidRule(Elementwise[nn.Module]):
    """``min(max(x/6 + 1/2, 0), 1)``; where it is not clipped, the product and the sum are at most 1."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        return Curve(op, lambda x: ((x >= -3) & (x < 3)).to(x) / 6, (-3.0, 3.0), ("linear", "linear", "linear"))

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        one = torch.ones_like(y)
        # The importer takes an alpha within 1e-7 of 1/6 for 1/6; |x| is at most about 3 where it counts.
        alpha_error = 4e-7 if isinstance(rounding, Outward) else 0.0
        return rounding.own_error(one, 1) + rounding.kernel_error(one, 4) + alpha_error

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Hardsigmoid(), ((4, 9),), domain=(-6.0, 6.0))


@rule(nn.Hardswish)
class HardswishRule(Elementwise[nn.Module]):
    """``x min(max(x/6 + 1/2, 0), 1)`` (Howard et al., arXiv 1905.02244, section 5.2)."""

    def curve(self, op: nn.Module, *constants: Value) -> Curve:
        def derivative(x: Tensor) -> Tensor:
            return torch.where(x < -3, 0, torch.where(x < 3, (2 * x + 3) / 6, 1))

        return Curve(op, derivative, (-3.0, 3.0), ("linear", "convex", "linear"), turns=(-1.5,))

    def error(self, op: nn.Module, x: Tensor, y: Tensor, rounding: Rounding, *constants: Value) -> Tensor | float:
        # Beyond 4 the factor is clipped to 0 or 1 in spite of rounding, and the product with it is exact.
        size = x.clamp(max=4)
        return rounding.own_error(size + y, 2) + rounding.kernel_error(size, 4)

    def examples(self) -> Iterator[Example]:
        yield Example(nn.Hardswish(), ((4, 9),), domain=(-6.0, 6.0))
