"""The loss of a batch in micro-batches, with the statistics and the gradient of the whole batch.

The clean pass sees the whole batch. The bounds of each micro-batch are computed on detached copies of the weights that this pass
results in; the gradients that accumulate there, those of the statistics included, then go back through the clean graph once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds.margins import Head
from pipeline.core.interval import Lockstep
from pipeline.distributed.sync_batch import Batch
from pipeline.train.batch_network import BatchNetwork
from pipeline.train.regularise import moments, terms_of


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Some samples of a batch: their robust loss, summed, how many are certified, and every value of the walk."""

    worst: Float[Tensor, ""]
    certified: Float[Tensor, ""]
    values: Sequence[Lockstep | Tensor | None]


@dataclass(frozen=True, eq=False)
class AccumulatedLoss:
    """``value = share worst + weight (tightness + balance)``, differentiable, and its terms, which are not."""

    value: Float[Tensor, ""]
    worst: Float[Tensor, ""]
    certified: Float[Tensor, ""]
    tightness: Float[Tensor, ""]
    balance: Float[Tensor, ""]


def accumulate(
    top: Head,
    clean: BatchNetwork,
    parameters: Sequence[Tensor],
    part: Callable[[Head, slice], MicroBatch],
    samples: int,
    micro_batch: int,
    *,
    share: Tensor,
    weight: Tensor,
    tau: float,
    used: tuple[bool, bool],
    batch: Batch,
) -> AccumulatedLoss:
    """The robust loss and the regularisers of a batch of ``samples``, computed ``micro_batch`` samples at a time by ``part``.

    The regularisers are functions of sums over the batch. A first pass without gradients computes these sums; the derivative in
    them then weights each micro-batch's own sums. ``used`` says whether tightness and balance are part of the loss.
    """
    plan, leaves = clean.with_leaves()
    fixed, inputs = replace(top, plan=plan), [*leaves, *parameters]
    zero = torch.zeros((), dtype=share.dtype, device=share.device)
    chunks = [slice(i, i + micro_batch) for i in range(0, samples, micro_batch)]
    slopes, terms = None, (zero, zero)
    if any(used):
        with torch.no_grad():
            sums = batch.sum(torch.stack([moments(top.plan, part(fixed, rows).values) for rows in chunks]).sum(0))
        sums.requires_grad_()
        terms = terms_of(sums, tau=tau)
        (slopes,) = torch.autograd.grad(weight.double() * (terms[0] * used[0] + terms[1] * used[1]), sums)
    worst, certified = zero, zero
    totals: list[Tensor | None] = [None] * len(inputs)
    for rows in chunks:
        micro = part(fixed, rows)
        loss = share * micro.worst / samples
        if slopes is not None:
            # These are sums over the whole batch, not means, while the loss of a part is weighted by its share of the samples.
            loss = loss + (slopes * moments(top.plan, micro.values)).sum().to(loss) / batch.share
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        totals = [b if a is None else a if b is None else a + b for a, b in zip(totals, gradients, strict=True)]
        worst, certified = worst + micro.worst.detach() / samples, certified + micro.certified
    tightness, balance = (t.detach().to(zero) for t in terms)
    value = share * worst + weight * (tightness * used[0] + balance * used[1])
    pairs = [(t, g) for t, g in zip([*clean.tensors, *parameters], totals, strict=True) if g is not None]
    sources, source_gradients = zip(*pairs, strict=True) if pairs else ((), ())
    return AccumulatedLoss(
        _WithGradients.apply(value, source_gradients, *sources), worst, certified, tightness, balance
    )


class _WithGradients(torch.autograd.Function):
    """A value with gradients in ``sources`` that are computed already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * g for g in ctx.saved_tensors))
