"""BatchNorm statistics taken from the data: before training, so that kept weights keep their function, and after it."""

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

    ``gamma = sqrt(var + eps)``, ``beta = mean``: in eval mode the function stays what it was, while training normalises by
    the batch. One pass serves all layers, since the function of none changes.
    """
    network.eval()
    plan = network.plan()
    joined = [(s, s.op) for s in plan.steps if isinstance(s.op, AffineBN)]
    at = {s.index: op.bn for s, op in joined if f"{s.name}.bn" in network.provenance.inserted}
    seen: dict[int, tuple[int, Tensor, Tensor]] = {}
    for x in batches:
        values = walk.forward(plan, [x], lambda *_: None, keep=at)
        for index in at:
            rows = values[index].double().movedim(1, -1).flatten(0, -2)
            seen[index] = _merged(seen.get(index), rows)
    for index, (count, mean, deviations) in seen.items():
        bn, var = at[index], deviations / count
        assert bn.running_mean is not None
        assert bn.running_var is not None
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var)
        # From the statistics as stored, so that they cancel to the last bit.
        bn.weight.copy_(torch.sqrt(bn.running_var.double() + bn.eps))
        bn.bias.copy_(bn.running_mean)


def _merged(before: tuple[int, Tensor, Tensor] | None, rows: Tensor) -> tuple[int, Tensor, Tensor]:
    """Count, mean and sum of squared deviations per channel, with more rows (Chan, Golub, LeVeque 1983, eq. 2.1)."""
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
