"""Why a run diverged: which layer's bounds exploded, and the likely cause."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from pipeline.bounds.ibp import lockstep
from pipeline.core.interval import Lockstep
from pipeline.core.threat import clipped_box
from pipeline.errors import out_of_memory
from pipeline.train.batch_network import batch_network
from pipeline.train.layers import layers
from pipeline.train.objective import shrinkage
from pipeline.train.step import Trainer

LARGE = 1e4
"""No initialisation gives a weight beyond this: a step was too long."""
EXPLODED = 100.0
"""By this factor from one layer to the next, bounds have exploded: no training that works shows it."""


def diagnosis(run: Trainer, batches: Iterable[tuple[Tensor, Tensor]], first: int) -> str:
    """A sentence on the first batch, from ``first`` on, whose loss or gradient is not finite at the current weights.

    ``run`` must not have stepped since that batch, which its fused optimiser ensures. Each of several processes computes whole
    batches by itself, for which a GPU may lack the memory.
    """
    try:
        return _first_failure(run, batches, first)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return "There is not memory enough to say in which layer."


def _first_failure(run: Trainer, batches: Iterable[tuple[Tensor, Tensor]], first: int) -> str:
    for i, (x, y) in itertools.islice(enumerate(batches), first, None):
        loss = run.terms(i, x, y).loss
        gradients = torch.autograd.grad(loss / shrinkage(loss.detach()), run.parameters, allow_unused=True)
        if bool(torch.isfinite(loss + nn.utils.get_total_norm([g for g in gradients if g is not None]))):
            continue
        if not bool(x.isfinite().all()):
            return f"Batch {i + 1} of its data holds a value that is not finite: mend the data."
        return f"In batch {i + 1}, {_where(run, i, x)}"
    return "No single batch shows it at the weights as they are: lower the learning rate or lengthen the ramp."


@torch.no_grad()
def _where(run: Trainer, i: int, x: Tensor) -> str:
    """The layer at which bounds or values grow most or are no longer finite, and the likely cause."""
    largest = max(float(p.abs().max()) for p in run.parameters)
    likely = "the learning rate is too high for these weights, or the ramp too short"
    if not largest < LARGE:
        likely = f"weights have reached {largest:.3g}: the learning rate is too high"
    elif not (run.recipe.full_bn and run.recipe.ibp_init):
        likely = "bounds grow with depth where --full-bn and --ibp-init are off, and the ramp may be too short for that"
    network, before, growth = run.model, 0.0, {}
    for name, value in _boxes(run, i, x):
        if not all(bool(t.isfinite().all()) for t in (value.clean, value.center, value.radius)):
            return f"the bounds of {network.origin(name)} are not finite; {likely}."
        size = float((value.center.double().abs() + value.radius.double()).mean())
        growth[name] = size / before if before else 1.0
        before = size
    worst = max(growth, key=lambda name: growth[name])
    exploded = "exploded" if growth[worst] > EXPLODED else "are finite, but grow most"
    times = f"{growth[worst]:.3g} times as large as those of the layer before"
    return f"the bounds of {network.origin(worst)} {exploded}, {times}; {likely}."


def _boxes(run: Trainer, i: int, x: Tensor) -> Iterator[tuple[str, Lockstep]]:
    """The box of each layer in the order of the graph, at the batch's own statistics and eps."""
    top = run.margins.top
    plan = batch_network(top.plan, x).plan
    values = lockstep(plan, x, clipped_box(x, run.schedule[i, 0], run.low, run.high))
    for step in layers(top.plan):
        value = values[step.index]
        if isinstance(value, Lockstep):
            yield step.name, value
