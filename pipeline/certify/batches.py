"""Whether the memory allowed holds one sample, and how many the file itself and the attack are given at once."""

from __future__ import annotations

import torch

from pipeline.bounds.footprint import FILL, Footprint, footprint
from pipeline.certify.pursuit import Pursuit
from pipeline.core.network import Network
from pipeline.errors import UsageError

RUN_FLOPS = 1 << 36
"""Floating point operations in float32 between two looks at the clock: some seconds on one core."""
ARENA = 2
"""ONNX Runtime takes memory in blocks that double."""


def require_memory(memory: int, fixed: int, least: int, method: str) -> None:
    """Raise UsageError (2) where ``memory`` does not hold what is there for all samples and one row of one of them."""
    needed = fixed + int(least / FILL)
    if needed > memory:
        raise UsageError(
            f"--memory-budget must hold the bounds of one sample: {method} takes {_mb(needed)} here, {_mb(fixed)} of them "
            f"for the network in float64; received {_mb(memory)}. Allow that, or take a cheaper --method."
        )


def _mb(count: int) -> str:
    return f"{-(-count // 10**6)}MB"


def predicted_at_once(network: Network, sample: torch.Tensor, memory: int, most: int) -> int:
    """Samples for one run of the file; ``sample`` is a batch of one in float32, ``memory`` in bytes."""
    with torch.no_grad():
        return _fit(footprint(lambda: network(sample)), ARENA, memory, most)


def attacked_at_once(network: Network, sample: torch.Tensor, memory: int, most: int) -> int:
    """Samples for one step of the attack, whose points are in turn given to the file."""
    label, pursuit = torch.zeros(1, dtype=torch.int64, device=sample.device), Pursuit.of(network)
    return _fit(footprint(lambda: pursuit.gradient(sample, label)), 1 + ARENA, memory, most)


def _fit(one: Footprint, copies: int, memory: int, most: int) -> int:
    return max(1, min(most, memory // max(copies * one.peak, 1), RUN_FLOPS // max(one.total, 1)))
