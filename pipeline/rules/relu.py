"""ReLU, whose box is computed so that small radii survive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.interval import Interval, Lockstep, at_least_float32
from pipeline.core.rounding import EXACT, Rounding
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.rules.relax import Line, Lines, Relaxation
from pipeline.rules.rule import Example, Rule, Value, rule


@rule(nn.ReLU)
class ReLURule(Rule[nn.ReLU]):
    """``[relu(c - r), relu(c + r)]``, written so that an active neuron's radius is untouched.

    With ``p = relu(c + r)/2`` it is ``c' = max(c, p), r' = min(r, p)``: the box itself where ``c >= r``, zero where
    ``c <= -r``, else both are ``p``. Going through the two ends would round away every radius below the spacing of floats
    around the center, nearly all of them at the first steps of a ramp.
    """

    def interval(self, op: nn.ReLU, *xs: Value, rounding: Rounding = EXACT) -> Interval:
        (x,) = xs
        assert isinstance(x, Interval)
        half = F.relu((x.center + x.radius) / 2)
        widened = half if rounding is EXACT else torch.where(half == 0, half, rounding.up(half))
        return Interval(torch.maximum(x.center, half), torch.minimum(x.radius, widened))

    def relax(self, op: nn.ReLU, *xs: Value, rounding: Rounding = EXACT) -> Relaxation:
        """``a x <= relu(x) <= s (x - l)`` where the sign is open, ``s = u/(u - l)``; any ``a`` in [0, 1] is exact.

        ``a`` starts at 1 where ``u > -l``, else 0 (CROWN's adaptive choice). ``s`` may be any number in [0, 1]: the offset
        is ``max(-s l, u - s u)``, rounded up.
        """
        (x,) = xs
        assert isinstance(x, Interval)
        lower, upper = rounding.ends(x)
        open_ = (lower < 0) & (upper > 0)
        # Neither open nor decided means NaN, which must stay NaN: it must never pass for inactive.
        fixed = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, torch.nan)).to(lower)
        # The divisor is made safe before dividing, for the gradient: training differentiates these lines too.
        width = torch.where(open_, upper - lower, 1).clamp_min(torch.finfo(upper.dtype).tiny)
        slope = torch.where(open_, upper / width, fixed).clamp(max=1)
        offset = torch.maximum(rounding.up(-slope * lower), upper - slope * upper + rounding.own_error(upper, 2))
        offset = torch.where(open_, offset, 0)
        above = Line(slope, offset)

        def steer(alpha: Tensor) -> tuple[Line, Line]:
            return Line(torch.where(open_, alpha[0], fixed)), above

        adaptive = torch.where(open_, (upper > -lower).to(upper), fixed)
        return Lines(
            x,
            Line(adaptive),
            above,
            rounding=rounding,
            steepest=1.0,
            highest=offset,
            start=adaptive[None],
            steer=steer,
            pieces=(0.0, 1.0),
        )

    def loose(self, op: nn.ReLU, x: Interval) -> Tensor:
        return x.center.abs() < x.radius

    def lockstep(self, op: nn.ReLU, *xs: Lockstep | Tensor, batch: Batch = WHOLE) -> Lockstep:
        (x,) = xs
        assert isinstance(x, Lockstep)
        return Lockstep(op(x.clean), *_relu_box(x.center, x.radius))

    def examples(self) -> Iterator[Example]:
        yield Example(nn.ReLU(), ((4, 9),))


def _relu_box(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The box after a ReLU, differentiable, for training."""
    if not torch.compiler.is_compiling():
        return _ReLUBox.apply(center, radius)
    # A compiler saves one of the outputs and recomputes the other, rounded in another way: they no longer compare equal.
    c, r = at_least_float32(center), at_least_float32(radius)
    half = F.relu((c + r) / 2)
    return torch.maximum(c, half).to(center.dtype), torch.minimum(r, half).to(radius.dtype)


class _ReLUBox(torch.autograd.Function):
    """The same box with its gradient in closed form, without ``where``, which costs a CPU as much as ten of these passes.

    With ``p = relu(c + r)/2``: ``c' = max(c, p)`` and ``r' = min(r, p)``, to the last bit. A neuron is active where ``c' > r'``
    and unstable where ``c' = r' > 0``: the gradient needs the outputs alone, which the next layer saves anyway, as long as they
    are saved to the last bit.
    """

    @staticmethod
    def forward(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        c, r = at_least_float32(center), at_least_float32(radius)
        half = (c + r).mul_(0.5).relu_()
        return torch.maximum(c, half).to(center.dtype), torch.minimum(r, half).to(radius.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*output)

    @staticmethod
    def backward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        c, r = ctx.saved_tensors
        active = (c - r).sign_()
        unstable = c.sign().sub_(active).mul_(0.5)
        both = (center + radius).mul_(unstable)
        return torch.addcmul(both, center, active), torch.addcmul(both, radius, active)
