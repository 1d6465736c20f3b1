"""Idea 3: bounds kept tight and ReLU layers kept balanced while eps grows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.bounds import Lockstep
from pipeline.network import Plan
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
    before = [values[s.args[0]] for s in plan.steps if isinstance(s.op, nn.ReLU)]
    boxes = [v for v in before if isinstance(v, Lockstep)]
    entering = [*(values[s.args[0]] for s in first_layers(plan)), values[plan.inputs[0]]][0]
    assert isinstance(entering, Lockstep)
    if not boxes:
        zero = torch.zeros_like(entering.radius.mean())
        return zero, zero
    reference = entering.radius.mean()
    tight = [F.relu(tau - reference / b.radius.mean().clamp(min=TINY)) / tau for b in boxes]
    balanced = [balance(b.center, b.radius, tau=tau) for b in boxes]
    return torch.stack(tight).mean(), torch.stack(balanced).mean()


def balance(
    center: Float[Tensor, "batch *shape"], radius: Float[Tensor, "batch *shape"], *, tau: float
) -> Float[Tensor, ""]:
    """``[relu(tau - rho(mean)) + relu(tau - rho(variance))] / tau``, over the neurons that are surely on or surely off.

    ``rho(q) = min(q, 1/q)``, where ``q`` is the ratio of active to inactive neurons' centers, and of their squared deviations
    from the mean center (Shi et al., section 3.3). Without an inactive neuron there is no ratio and the term is zero.
    """
    c = center.flatten()
    active, inactive = (m.flatten().to(c.dtype) for m in (center > radius, center < -radius))
    deviation = (c - c.mean()).square()
    mean, has_mean = _ratio(c.dot(active), -c.dot(inactive))
    variance, has_variance = _ratio(deviation.dot(active), deviation.dot(inactive))
    term = (F.relu(tau - mean) + F.relu(tau - variance)) / tau
    return torch.where(has_mean & has_variance, term, torch.zeros_like(term))


def _ratio(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``min(q, 1/q)`` of ``q = a/b`` for nonnegative ``a, b``, and whether ``b`` is positive.

    The divisor is made safe before dividing: a ``where`` after it would turn the gradient into NaN.
    """
    there = b > 0
    q = a / torch.where(there, b, torch.ones_like(b))
    return torch.minimum(q, 1 / q.clamp(min=TINY)), there
