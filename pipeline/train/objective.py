"""The loss of one batch: what the clean values and the boxes of one walk say, as device tensors and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds import Lockstep, full
from pipeline.propagate import walk
from pipeline.propagate.interval import lockstep
from pipeline.propagate.margins import Head, lockstep_margins
from pipeline.spread import whole
from pipeline.threat import clipped_box
from pipeline.train.batch_network import batch_network
from pipeline.train.regularise import regularisers


@dataclass(frozen=True)
class Phase:
    """What an epoch asks of its batches: decided by Python once an epoch, so that the step has no branch on a tensor."""

    robust: bool
    """Whether the loss is the robust one (eps has left zero) or the natural one."""
    tightness: bool = False
    balance: bool = False
    tau: float = 0.5
    crown: bool = False
    """Whether margins of CROWN-IBP are mixed in."""

    @property
    def regularised(self) -> bool:
        return self.tightness or self.balance


@dataclass(frozen=True)
class Terms:
    """The loss of a batch and its parts (means), and how many of its samples are correct and certified; zero if not computed."""

    loss: Float[Tensor, ""]
    natural: Float[Tensor, ""]
    robust: Float[Tensor, ""]
    tightness: Float[Tensor, ""]
    balance: Float[Tensor, ""]
    correct: Float[Tensor, ""]
    certified: Float[Tensor, ""]


def objective(
    top: Head,
    x: Float[Tensor, " batch *features"],
    y: Int[Tensor, " batch"],
    eps: Float[Tensor, ""],
    weight: Float[Tensor, ""],
    *,
    phase: Phase,
    low: float = 0.0,
    high: float = 1.0,
) -> Terms:
    """``loss = L + weight (tightness + balance)`` after Shi et al., arXiv 2103.17268, section 3.

    ``L`` is the cross-entropy of the logits before the ramp, and from then on the robust one alone,
    ``log(1 + sum_j exp(-m_j))`` over the lower bounds ``m_j`` of the margins ``z_y - z_j`` (Gowal et al., arXiv 1810.12715,
    eq. 12). One walk carries clean values and boxes; BatchNorms in train mode take their statistics from the former.
    ``eps`` is the radius in the units of ``x``, whose valid range is ``[low, high]``; ``eps`` and ``weight`` are tensors, so
    that a compiled step serves the whole ramp.
    """
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    if not (phase.robust or phase.regularised):
        # The layers of torch.nn know no other statistics than those of the samples that they are given.
        clean = (
            walk.forward(top.plan, [x], _no_rule, keep={top.index})[top.index]
            if whole()
            else batch_network(top.plan, x).logits
        )
        natural = F.cross_entropy(full(clean).flatten(1), y)
        return Terms(natural, natural.detach(), zero, zero, zero, _correct(clean, y), zero)
    values = lockstep(top.plan, x, clipped_box(x, eps, low, high))
    logits = values[top.index]
    assert isinstance(logits, Lockstep)
    natural, robust, certified = F.cross_entropy(full(logits.clean).flatten(1), y), zero, zero
    if phase.robust:
        margins = lockstep_margins(top, values, y)
        robust = robust_cross_entropy(margins)
        certified = (margins.detach() > 0).all(0).sum().to(x.dtype)
    loss = robust if phase.robust else natural
    tightness, balance = zero, zero
    if phase.regularised:
        tightness, balance = regularisers(top.plan, values, tau=phase.tau)
        loss = loss + weight * ((tightness if phase.tightness else 0) + (balance if phase.balance else 0))
    return Terms(
        loss,
        natural.detach(),
        robust.detach(),
        tightness.detach(),
        balance.detach(),
        _correct(logits.clean, y),
        certified,
    )


def robust_cross_entropy(margins: Float[Tensor, "rows batch"]) -> Float[Tensor, ""]:
    """The cross-entropy of the logits ``[0, -m_1, ..., -m_(K-1)]`` with label 0, mean over the batch."""
    return torch.logsumexp(F.pad(-margins, (0, 0, 1, 0)), 0).mean()


def _correct(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.detach().flatten(1).argmax(1) == y).sum().to(logits.dtype)


def _no_rule(*_: object) -> None:
    raise AssertionError("a walk over tensors asks for no rule")
