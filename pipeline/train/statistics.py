"""BatchNorm statistics from the data: before training, so that given weights keep their function, and after it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.bounds import walk
from pipeline.core.network import Network
from pipeline.core.ops import AffineBN, BatchNorm


@torch.no_grad()
def start_from_statistics_(network: Network, batches: Iterable[Tensor]) -> None:
    """Give each inserted BatchNorm the data's mean and variance, and the ``gamma``, ``beta`` that undo them, in place.

    ``gamma = sqrt(var + eps)``, ``beta = mean``: in eval mode the network's function stays the same, while training normalises
    by the batch. One pass over ``batches`` serves all layers, since no layer's function changes.
    """
    network.eval()
    plan = network.plan()
    layers = [(s, s.op) for s in plan.steps if isinstance(s.op, AffineBN)]
    norms = {s.index: op.bn for s, op in layers if f"{s.name}.bn" in network.provenance.inserted}
    moments: dict[int, tuple[int, Tensor, Tensor]] = {}
    for x in batches:
        values = walk.forward(plan, [x], lambda *_: None, keep=norms)
        for index in norms:
            rows = values[index].double().movedim(1, -1).flatten(0, -2)
            moments[index] = _merge(moments.get(index), rows)
    for index, (count, mean, deviations) in moments.items():
        bn, var = norms[index], deviations / count
        assert bn.running_mean is not None
        assert bn.running_var is not None
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        # From the statistics as stored, so that they cancel to the last bit.
        bn.weight.copy_(torch.sqrt(bn.running_var.double() + bn.eps))
        bn.bias.copy_(bn.running_mean)


def _merge(before: tuple[int, Tensor, Tensor] | None, rows: Tensor) -> tuple[int, Tensor, Tensor]:
    """Count, mean and sum of squared deviations per channel, with ``rows`` added (Chan, Golub, LeVeque 1983, eq. 2.1)."""
    n = len(rows)
    var, mean = torch.var_mean(rows, 0, correction=0)
    if before is None:
        return n, mean, var * n
    m, old, deviations = before
    delta = mean - old
    return m + n, old + delta * (n / (m + n)), deviations + var * n + delta.square() * (m * n / (m + n))


@torch.no_grad()
def population_statistics_(network: Network, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every trainable BatchNorm by their mean over all ``batches``, in place."""
    frozen = {name.rpartition(".")[0] for name in network.provenance.frozen}
    norms = [m for n, m in network.graph.named_modules() if isinstance(m, BatchNorm) and n not in frozen]
    momenta = [m.momentum for m in norms]
    network.eval()
    for m in norms:
        m.train()
    for k, x in enumerate(batches, start=1):
        for m in norms:
            m.momentum = 1 / k
        network(x)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    network.eval()
