"""Adversarial points to train on: a few steps of PGD within the box, on the network of the current batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.margins import Head
from pipeline.core.interval import Interval
from pipeline.train.losses.loss import logits


def adversarial_points(
    top: Head,
    box: Interval,
    y: Int[Tensor, " batch"],
    draw: Float[Tensor, " batch *features"],
    *,
    steps: int,
    step: float,
) -> Float[Tensor, " batch *features"]:
    """``x <- clip(x + step r sign(grad CE(f(x), y)))`` within the box ``c ± r``, from ``c + (2 draw - 1) r``.

    Madry et al., arXiv 1706.06083, section 2.1. ``draw`` is uniform in [0, 1]; ``step`` counts half widths ``r``: with one step
    of 10 every pixel goes to an end of its interval. ``top`` is the network in training, under the statistics of the clean
    batch: no statistics move.
    """
    low, high = box.center - box.radius, box.center + box.radius
    point = box.center + (2 * draw - 1) * box.radius
    # In the point alone: the gradients of the weights are never computed.
    slope = torch.func.grad(lambda x: F.cross_entropy(logits(top, x), y, reduction="sum"))
    with torch.no_grad():
        for _ in range(steps):
            point = torch.minimum(torch.maximum(point + step * box.radius * slope(point).sign(), low), high)
    return point
