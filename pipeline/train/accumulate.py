"""The loss of a batch, a few samples at a time, at the statistics and with the gradient of the whole batch.

The clean pass sees the full batch. Bounds are taken of micro-batches on copies of the weights that it gave; the gradients that
gather there, those of the statistics among them, go back through the clean graph once.
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
    """Some samples of a batch: the robust loss summed over them, how many are certified, every value of the walk."""

    worst: Float[Tensor, ""]
    certified: Float[Tensor, ""]
    values: Sequence[Lockstep | Tensor | None]


@dataclass(frozen=True, eq=False)
class Accumulated:
    """``value = share worst + weight (tightness + balance)``, which knows its gradients, and its parts, which do not."""

    value: Float[Tensor, ""]
    worst: Float[Tensor, ""]
    certified: Float[Tensor, ""]
    tightness: Float[Tensor, ""]
    balance: Float[Tensor, ""]


def accumulated(
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
) -> Accumulated:
    """The robust loss and the regularisers of a batch, ``micro_batch`` of its samples at a time.

    The regularisers are functions of sums over the batch, which a pass without gradients finds beforehand: their derivative
    in these is then every micro-batch's share. ``used`` says which of the two are part of the loss.
    """
    plan, leaves = clean.with_leaves()
    here, inputs = replace(top, plan=plan), [*leaves, *parameters]
    zero = torch.zeros((), dtype=share.dtype, device=share.device)
    chunks = [slice(i, i + micro_batch) for i in range(0, samples, micro_batch)]
    slopes, terms = None, (zero, zero)
    if any(used):
        with torch.no_grad():
            sums = batch.sum(torch.stack([moments(top.plan, part(here, rows).values) for rows in chunks]).sum(0))
        sums.requires_grad_()
        terms = terms_of(sums, tau=tau)
        (slopes,) = torch.autograd.grad(weight.double() * (terms[0] * used[0] + terms[1] * used[1]), sums)
    worst, certified = zero, zero
    gathered: list[Tensor | None] = [None] * len(inputs)
    for rows in chunks:
        found = part(here, rows)
        loss = share * found.worst / samples
        if slopes is not None:
            # Of sums over the whole batch, not means: the loss of a part counts by its share of the samples.
            loss = loss + (slopes * moments(top.plan, found.values)).sum().to(loss) / batch.share
        slope = torch.autograd.grad(loss, inputs, allow_unused=True)
        gathered = [b if a is None else a if b is None else a + b for a, b in zip(gathered, slope, strict=True)]
        worst, certified = worst + found.worst.detach() / samples, certified + found.certified
    tightness, balance = (t.detach().to(zero) for t in terms)
    value = share * worst + weight * (tightness * used[0] + balance * used[1])
    pairs = [(t, g) for t, g in zip([*clean.tensors, *parameters], gathered, strict=True) if g is not None]
    sources, gradients = zip(*pairs, strict=True) if pairs else ((), ())
    return Accumulated(_Known.apply(value, gradients, *sources), worst, certified, tightness, balance)


class _Known(torch.autograd.Function):
    """A value whose gradients in given tensors have been found already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * g for g in ctx.saved_tensors))
