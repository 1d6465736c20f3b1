"""Bounds of a batch, a few samples at a time, at the statistics and with the gradient of the whole.

The clean pass sees the full batch. Bounds are taken of micro-batches on copies of the weights that it gave; what gathers there,
the gradients of the statistics with it, goes back through the clean graph once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline import spread
from pipeline.bounds import Lockstep
from pipeline.network import Plan
from pipeline.propagate.margins import Head
from pipeline.train.batch_network import BatchNetwork
from pipeline.train.objective import Phase
from pipeline.train.regularise import loose, regularised, unbalanced


@dataclass(frozen=True, eq=False)
class Part:
    """What some samples of a batch say: the worst-case loss summed over them, how many are certified, every value of the walk."""

    worst: Float[Tensor, ""]
    certified: Float[Tensor, ""]
    values: Sequence[Lockstep | Tensor | None]


def accumulated(
    top: Head,
    clean: BatchNetwork,
    parameters: Sequence[Tensor],
    part: Callable[[Head, slice], Part],
    samples: int,
    micro_batch: int,
    *,
    share: Tensor,
    weight: Tensor,
    phase: Phase,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``share worst / samples + weight (tightness + balance)``, its mean worst loss, how many are certified, and the two terms.

    The first is a scalar that knows its gradients in ``parameters`` and in the clean graph. The regularisers are functions of
    sums over the batch, which a pass without gradients finds beforehand: their derivative in these is then every
    micro-batch's share.
    """
    plan, leaves = clean.with_leaves()
    here, inputs = replace(top, plan=plan), [*leaves, *parameters]
    zero = torch.zeros((), dtype=share.dtype, device=share.device)
    chunks = [slice(i, i + micro_batch) for i in range(0, samples, micro_batch)]
    sums, slopes, terms = None, None, (zero, zero)
    if phase.regularised:
        with torch.no_grad():
            sums = spread.summed(torch.stack([moments(top.plan, part(here, rows).values) for rows in chunks]).sum(0))
        sums.requires_grad_()
        terms = regularisers_of(sums, tau=phase.tau)
        used = (terms[0] if phase.tightness else 0) + (terms[1] if phase.balance else 0)
        (slopes,) = torch.autograd.grad(weight.double() * used, sums)
    worst, certified = zero, zero
    gathered: list[Tensor | None] = [None] * len(inputs)
    for rows in chunks:
        found = part(here, rows)
        loss = share * found.worst / samples
        if slopes is not None:
            # Of sums over the whole batch, not means: the loss of a part counts by its share of the samples.
            loss = loss + (slopes * moments(top.plan, found.values)).sum().to(loss) / spread.share()
        slope = torch.autograd.grad(loss, inputs, allow_unused=True)
        gathered = [b if a is None else a if b is None else a + b for a, b in zip(gathered, slope, strict=True)]
        worst, certified = worst + found.worst.detach() / samples, certified + found.certified
    tightness, balance = (t.detach().to(zero) for t in terms)
    value = share * worst + weight * (tightness * phase.tightness + balance * phase.balance)
    pairs = [(t, g) for t, g in zip([*clean.tensors, *parameters], gathered, strict=True) if g is not None]
    sources, gradients = zip(*pairs, strict=True) if pairs else ((), ())
    return _Known.apply(value, gradients, *sources), worst, certified, tightness, balance


class _Known(torch.autograd.Function):
    """A value whose gradients in given tensors have been found already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * g for g in ctx.saved_tensors))


def moments(plan: Plan, values: Sequence[Lockstep | Tensor | None]) -> Float[Tensor, "boxes 9"]:
    """The sums of which the regularisers are functions, in float64: a row of the box that enters, one of each ReLU's.

    ``n, sum r, sum c``; then, over the neurons that are surely on, and over those that are surely off, ``n, sum c, sum c^2``.
    """
    entering, boxes = regularised(plan, values)
    rows = []
    for box in (entering, *boxes):
        c, r = box.center.flatten().double(), box.radius.flatten().double()
        row = [torch.full_like(c[0], len(c)), r.sum(), c.sum()]
        for side in (box.center > box.radius, box.center < -box.radius):
            s = side.flatten().double()
            row += [s.sum(), c.dot(s), c.square().dot(s)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def regularisers_of(sums: Float[Tensor, "boxes 9"], *, tau: float) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Tightness and ReLU balance as in ``regularise``, from the sums of the whole batch."""
    if len(sums) == 1:
        return sums.sum() * 0, sums.sum() * 0
    reference, relus = sums[0, 1] / sums[0, 0], sums[1:]
    tight = loose(reference, relus[:, 1] / relus[:, 0], tau)
    mean = relus[:, 2] / relus[:, 0]

    def deviations(side: Tensor) -> Tensor:
        return (side[:, 2] - 2 * mean * side[:, 1] + mean.square() * side[:, 0]).clamp(min=0)

    on, off = relus[:, 3:6], relus[:, 6:9]
    return tight.mean(), unbalanced(on[:, 1], off[:, 1], deviations(on), deviations(off), tau).mean()
