"""Attacked samples to train on: a few steps of PGD within the box, on the network of the batch at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds import Interval
from pipeline.propagate import walk
from pipeline.propagate.margins import Head
from pipeline.spread import drawn


def attacked(
    top: Head, box: Interval, y: Int[Tensor, " batch"], *, steps: int, step: float, generator: torch.Generator
) -> Float[Tensor, " batch *features"]:
    """``x <- clip(x + step r sign(grad CE(f(x), y)))`` within the box ``c ± r``, from a uniformly drawn point of it.

    Madry et al., arXiv 1706.06083; with one step of 10 half widths every pixel goes to an end of its interval. ``top`` is the
    network whose loss is trained, under the statistics of the clean batch: no statistics move.
    """
    draw = drawn(box.center.shape, generator, box.center)
    low, high = box.center - box.radius, box.center + box.radius
    point = box.center + (2 * draw - 1) * box.radius
    for _ in range(steps):
        point.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(logits(top, point), y, reduction="sum")
        # Asked for the point alone, the gradients of the weights are never computed.
        (gradient,) = torch.autograd.grad(loss, point)
        point = torch.minimum(torch.maximum(point.detach() + step * box.radius * gradient.sign(), low), high)
    return point


def logits(top: Head, x: Tensor) -> Float[Tensor, "batch classes"]:
    """What the network says of points."""
    return walk.forward(top.plan, [x], _no_rule)[top.index].flatten(1)


def _no_rule(*_: object) -> None:
    raise AssertionError("a walk over tensors asks for no rule")
