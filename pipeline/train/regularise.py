"""Idea 3: two regularisers, for tight bounds and for balanced ReLU layers while eps grows.

Both are functions of a few sums over the batch (``moments``). So the same code serves one process that holds the whole batch,
several that hold a part each, and micro-batches: the sums are added up first, and the terms computed from the total.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.interval import Lockstep, at_least_float32
from pipeline.core.network import Plan
from pipeline.distributed.sync_batch import WHOLE, Batch
from pipeline.train.layers import first_layers

TINY = 1e-12


def regularisers(
    plan: Plan, values: Sequence[Lockstep | Tensor | None], *, tau: float, batch: Batch = WHOLE
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Tightness and ReLU balance of a batch (see ``terms_of``), from the ``values`` of one lockstep walk, by node."""
    entering = values[plan.inputs[0]]
    assert isinstance(entering, Lockstep)
    tightness, balance = terms_of(batch.sum(moments(plan, values)), tau=tau)
    precision = at_least_float32(entering.center[:0]).dtype
    return tightness.to(precision), balance.to(precision)


def terms_of(sums: Float[Tensor, "boxes 9"], *, tau: float) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Tightness and ReLU balance, each the mean over the ReLU nodes, from the ``moments`` of the whole batch.

    Shi et al., arXiv 2103.17268, section 3.3. With ``c, r`` the box before a ReLU, ``r_0`` the mean radius of the box that
    enters the network's first layer (so that a normalisation inside the graph changes nothing) and ``r_i`` the mean of ``r``:
    ``tightness = relu(tau - r_0 / r_i) / tau`` and ``balance = [relu(tau - rho(mean)) + relu(tau - rho(variance))] / tau`` over
    the neurons that are surely active or surely inactive. ``rho(q) = min(q, 1/q)``, where ``q`` is the ratio of active to
    inactive neurons' centers, and of their squared deviations from the mean center. Without an inactive neuron there is no
    ratio and the balance is zero; a graph without ReLU gives zeros.
    """
    if len(sums) == 1:
        return sums.sum() * 0, sums.sum() * 0
    radii, centers, count = sums[:, 1] / sums[:, 0], sums[1:, 2], sums[1:, 0]
    tightness = F.relu(tau - radii[0] / radii[1:].clamp(min=TINY)) / tau
    mean = centers / count

    def deviations(side: Tensor) -> Tensor:
        return (side[:, 2] - 2 * mean * side[:, 1] + mean.square() * side[:, 0]).clamp(min=0)

    on, off = sums[1:, 3:6], sums[1:, 6:9]
    (of_means, has_mean), (of_variances, has_variance) = (
        _ratio(on[:, 1], -off[:, 1]),
        _ratio(deviations(on), deviations(off)),
    )
    balance = (F.relu(tau - of_means) + F.relu(tau - of_variances)) / tau
    balance = torch.where(has_mean & has_variance, balance, torch.zeros_like(balance))
    return tightness.mean(), balance.mean()


def moments(plan: Plan, values: Sequence[Lockstep | Tensor | None]) -> Float[Tensor, "boxes 9"]:
    """The sums that the regularisers read, in float64: a row for the box that enters the network, one for each ReLU's.

    A row holds ``n, sum r, sum c``; then ``n, sum c, sum c^2`` over the neurons that are surely active (``c > r``), and over
    those that are surely inactive (``c < -r``); Shi et al., section 3.3.
    """
    entering = [*(values[s.args[0]] for s in first_layers(plan)), values[plan.inputs[0]]][0]
    before = [values[s.args[0]] for s in plan.steps if isinstance(s.op, nn.ReLU)]
    boxes = [v for v in (entering, *before) if isinstance(v, Lockstep)]
    return torch.stack([_Moments.apply(box.center, box.radius) for box in boxes])


class _Moments(torch.autograd.Function):
    """A row of ``moments``, in one pass each way.

    Sums are taken about the mean center, so that squares of large centers do not cancel, and shifted back in float64. The
    gradient is in closed form: by autograd it would cost a third of a natural training step in memory traffic.
    """

    @staticmethod
    def forward(center: Tensor, radius: Tensor) -> Tensor:
        c, *sides = _sides(center, radius)
        shift = c.mean()
        deviation = c - shift
        shift64, count = shift.double(), torch.full_like(shift, c.numel(), dtype=torch.float64)
        row = [count, at_least_float32(radius).sum().double(), deviation.sum().double() + count * shift64]
        for side in sides:
            part = side * deviation
            n, first, second = side.sum().double(), part.sum().double(), part.mul_(deviation).sum().double()
            row += [n, first + n * shift64, second + shift64 * (2 * first + n * shift64)]
        return torch.stack(row)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        center, radius = ctx.saved_tensors
        c, on, off = _sides(center, radius)
        _, of_radius, of_center, _, on_sum, on_squares, _, off_sum, off_squares = gradient.to(c.dtype)
        slope = on.mul_((2 * on_squares) * c + on_sum).add_(off.mul_((2 * off_squares) * c + off_sum)).add_(of_center)
        return slope.to(center.dtype), of_radius.to(radius.dtype).expand_as(radius)


def _sides(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centers; 1 where a neuron is surely active, else 0; and likewise surely inactive. Signs are faster than comparisons."""
    c, r = at_least_float32(center), at_least_float32(radius)
    return c, (c - r).relu_().sign_(), (c + r).neg_().relu_().sign_()


def _ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``min(q, 1/q)`` of ``q = a/b`` for nonnegative ``a, b``, and whether ``b`` is positive.

    The divisor is made safe before dividing: a ``where`` after it would turn the gradient into NaN.
    """
    positive = b > 0
    q = a / torch.where(positive, b, torch.ones_like(b))
    return torch.minimum(q, 1 / q.clamp(min=TINY)), positive
