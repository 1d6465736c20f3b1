"""What a network attains on samples that it is not trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.bounds.margins import MarginBounds
from pipeline.core.network import Network
from pipeline.core.threat import clipped_box
from pipeline.distributed.group import ProcessGroup


@torch.no_grad()
def accuracies(
    network: Network,
    margins: MarginBounds,
    x: Tensor,
    y: Tensor,
    radius: float,
    low: float,
    high: float,
    group: ProcessGroup,
    *,
    chunk: int = 256,
) -> tuple[float, float]:
    """Natural and certified accuracy in eval mode at a radius, by IBP in the precision of training.

    Each process of the group takes its share of the samples ``x`` with labels ``y``; ``[low, high]`` is the range of the input.
    """
    network.eval()
    samples, rows = len(y), group.rows(len(y))
    x, y = x[rows], y[rows]
    counts = torch.zeros(2, dtype=torch.int64, device=x.device)
    for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True) if len(y) else ():
        counts[0] += (network(xs).flatten(1).argmax(1) == ys).sum()
        counts[1] += (margins.least(clipped_box(xs, radius, low, high), ys) > 0).sum()
    group.all_reduce_([counts])
    natural, certified = counts.tolist()
    return natural / samples, certified / samples
