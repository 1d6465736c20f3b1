"""What a model costs to run, to bound and to train: counted on the graph, nothing measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.bounds import walk
from pipeline.core.network import Network, Step

BATCH = 128


@dataclass(frozen=True)
class Cost:
    """Counts for one sample, and estimates for one batch.

    `multiply_adds` of one forward pass: IBP takes two such passes, a training step of IBP about nine. `values` are the numbers
    that all values of the graph hold. `certify_bytes` is what IBP in float64 takes for `certify_batch` samples at once,
    `train_bytes` three float32 values of everything, kept for the gradient, for a batch of 128.
    """

    parameters: int
    multiply_adds: int
    values: int
    certify_batch: int
    certify_bytes: int
    train_bytes: int


def cost_of(network: Network, *, batch: int, memory: int) -> Cost:
    """Run one blank sample through the graph and count; ``batch`` and ``memory`` are the most that IBP takes at once.

    Raises RuntimeError where the graph cannot run on one sample.
    """
    samples = [torch.zeros(1, *(d or 1 for d in port.shape[1:]), dtype=port.dtype) for port in network.inputs]
    plan = network.plan()
    with torch.no_grad():
        values = walk.forward(plan, samples, lambda step, *xs: step.op(*xs), keep=walk.EVERYTHING)
    numbers = [_numbers(v) for v in values if isinstance(v, Tensor) and v.dim() and v.shape[0] == 1]
    largest = max(numbers, default=1)
    batch = max(1, min(batch, memory // (8 * 8 * largest)))
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=sum(multiply_adds(step, values) for step in plan.steps),
        values=sum(numbers),
        certify_batch=batch,
        certify_bytes=8 * 8 * largest * batch,
        train_bytes=3 * 4 * sum(numbers) * BATCH,
    )


def multiply_adds(step: Step, values: list[Tensor | None]) -> int:
    """Of the products of weights or of two values: every output of a layer sums as many as its fan-in."""
    out, x = values[step.index], values[step.args[0]] if step.args else None
    if not isinstance(out, Tensor) or not isinstance(x, Tensor):
        return 0
    op = step.op
    if isinstance(op, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return x.numel() * op.out_channels // op.groups * math.prod(op.kernel_size)
    if isinstance(op, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return out.numel() * op.in_channels // op.groups * math.prod(op.kernel_size)
    if isinstance(op, nn.Linear):
        return out.numel() * op.in_features
    return out.numel() * x.shape[-1] if type(op).__name__ == "MatMul" and x.dim() else 0


def _numbers(value: Tensor | None) -> int:
    return value.numel() if isinstance(value, Tensor) else 0
