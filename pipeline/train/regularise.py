"""Idea 3: bounds kept tight and ReLU layers kept balanced while eps grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.bounds import Lockstep, full
from pipeline.network import Plan
from pipeline.spread import across, summed
from pipeline.train.layers import first_layers

TINY = 1e-12


def regularisers(
    plan: Plan, values: Sequence[Lockstep | Tensor | None], *, tau: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Tightness and ReLU balance, each the mean over the ReLU nodes, from the values of one training walk.

    Shi et al., arXiv 2103.17268, section 3.3. With ``c, r`` the box before a ReLU, ``r_0`` the mean radius of the box that
    enters the network's first layer (so that a normalisation inside the graph changes nothing) and ``r_i`` the mean of ``r``:
    ``tightness = relu(tau - r_0 / r_i) / tau``, and ``balance`` as below. A graph without ReLU gives zeros.
    """
    entering, boxes = regularised(plan, values)
    if not boxes:
        zero = torch.zeros_like(entering.radius.mean())
        return zero, zero
    reference = across(full(entering.radius).mean())
    means, *sums = map(torch.stack, zip(*(_Moments.apply(b.center, b.radius) for b in boxes), strict=True))
    on, off, on_squares, off_squares = summed(torch.stack(sums))
    return loose(reference, across(means), tau).mean(), unbalanced(on, off, on_squares, off_squares, tau).mean()


def regularised(plan: Plan, values: Sequence[Lockstep | Tensor | None]) -> tuple[Lockstep, list[Lockstep]]:
    """The box that enters the first layer, and those before each ReLU."""
    entering = [*(values[s.args[0]] for s in first_layers(plan)), values[plan.inputs[0]]][0]
    assert isinstance(entering, Lockstep)
    before = [values[s.args[0]] for s in plan.steps if isinstance(s.op, nn.ReLU)]
    return entering, [v for v in before if isinstance(v, Lockstep)]


def loose(reference: Tensor, means: Tensor, tau: float) -> Tensor:
    """``relu(tau - r_0 / r_i) / tau`` from the mean radii ``r_i``."""
    return F.relu(tau - reference / means.clamp(min=TINY)) / tau


def unbalanced(on: Tensor, off: Tensor, on_squares: Tensor, off_squares: Tensor, tau: float) -> Tensor:
    """``balance`` from the sums of centers, and of squared deviations, over active and over inactive neurons."""
    mean, has_mean = _ratio(on, -off)
    variance, has_variance = _ratio(on_squares, off_squares)
    term = (F.relu(tau - mean) + F.relu(tau - variance)) / tau
    return torch.where(has_mean & has_variance, term, torch.zeros_like(term))


def balance(
    center: Float[Tensor, " batch *shape"], radius: Float[Tensor, " batch *shape"], *, tau: float
) -> Float[Tensor, ""]:
    """``[relu(tau - rho(mean)) + relu(tau - rho(variance))] / tau``, over the neurons that are surely on or surely off.

    ``rho(q) = min(q, 1/q)``, where ``q`` is the ratio of active to inactive neurons' centers, and of their squared deviations
    from the mean center (Shi et al., section 3.3). Without an inactive neuron there is no ratio and the term is zero.
    """
    _, on, off, on_squares, off_squares = _Moments.apply(center, radius)
    return unbalanced(on, off, on_squares, off_squares, tau)


class _Moments(torch.autograd.Function):
    """``mean(r)``, and over active and over inactive neurons ``sum c`` and ``sum (c - mean(c))^2``, in one pass each way.

    Of a batch spread over processes they are those of this part, about the ``mean(c)`` of the whole. The gradient is in closed
    form: what autograd would keep and read for it costs a third of a natural step.
    """

    @staticmethod
    def forward(center: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
        c, active, inactive = _signs(center, radius)
        deviation = (c - across(c.mean())).square_()
        sums = ((v * m).sum() for v in (c, deviation) for m in (active, inactive))
        return full(radius).mean(), *sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, of_radius: Tensor, *of_sums: Tensor) -> tuple[Tensor, Tensor]:
        center, radius = ctx.saved_tensors
        c, active, inactive = _signs(center, radius)
        deviation, n = c - across(c.mean()), c.numel()
        on, off, on_squares, off_squares = of_sums
        slope = (active * (2 * on_squares)).add_(inactive * (2 * off_squares)).mul_(deviation)
        grad = active.mul_(on).add_(inactive.mul_(off)).add_(slope).sub_(across(slope.mean()))
        return grad.to(center.dtype), (of_radius / n).to(radius.dtype).expand_as(radius)


def _signs(center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centers, and 1 where a neuron is surely on, and surely off: by signs, which are faster than comparisons."""
    c, r = full(center), full(radius)
    return c, (c - r).relu_().sign_(), (c + r).neg_().relu_().sign_()


def _ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``min(q, 1/q)`` of ``q = a/b`` for nonnegative ``a, b``, and whether ``b`` is positive.

    The divisor is made safe before dividing: a ``where`` after it would turn the gradient into NaN.
    """
    there = b > 0
    q = a / torch.where(there, b, torch.ones_like(b))
    return torch.minimum(q, 1 / q.clamp(min=TINY)), there
