"""Bounds of one network by every method and arithmetic, in batches that fit into the memory allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch

from pipeline.bounds.float32_sites import self_test
from pipeline.bounds.footprint import FILL, Footprint, Need, footprint
from pipeline.bounds.linear import MEMORY
from pipeline.bounds.rows import RowBounds
from pipeline.choices import Mode
from pipeline.core.network import Network
from pipeline.core.rounding import rounding_of
from pipeline.core.threat import Region
from pipeline.errors import UsageError
from pipeline.rules.weights import Facts
from pipeline.system.allocator import give_back_large_blocks

CHUNK_BYTES = 1 << 29
"""The most memory of one batch on a CPU, in bytes, whatever is allowed: larger batches leave the caches and are no faster."""
RUN_FLOPS = 1 << 36
"""Float32 operations between two checks of the clock: some seconds on one core."""
ARENA = 2
"""The factor by which ONNX Runtime may take more memory than it needs: its blocks double in size."""
PREDICT_BATCH = 256
"""The most samples in one run of the file."""
COPIES = 2.5
"""Memory besides that of a batch, in float64 networks: the network, cached sums of its weights, and the attack's copy."""

B = TypeVar("B", bound=RowBounds)


class Engine(Generic[B]):
    """Bounds of the given ``kind`` over a float64 network, made once for each method and arithmetic.

    ``mode``: the arithmetic of the run. ``one``: gives the regions of one sample, on which memory is measured. ``memory``: bytes
    for one batch, the network included; None takes a usual amount, or what one sample needs. ``kernels``: see ``rounding_of``.
    ``check`` is called at every node, and may raise to end a walk.
    """

    def __init__(
        self,
        kind: Callable[..., B],
        network: Network,
        mode: Mode,
        one: Callable[[], Sequence[Region]],
        *,
        memory: int | None = None,
        kernels: Mapping[str, tuple[float, float]] | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self.kind, self.network, self.mode, self.one = kind, network, mode, one
        self.memory, self.kernels, self.check = memory, kernels, check
        tensors = [*network.parameters(), *network.buffers()]
        self.fixed = int(COPIES * sum(tensor.nbytes for tensor in tensors))
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._bounds: dict[tuple[str, Mode], B] = {}
        self._needs: dict[str, Need] = {}
        self._facts: Facts = {}
        self_test(str(self.device))
        if memory is not None:
            give_back_large_blocks()

    @property
    def batch_bytes(self) -> int:
        """Bytes for one batch, without what is shared by all batches."""
        left = max(0, int(FILL * ((self.memory or MEMORY) - self.fixed)))
        return min(CHUNK_BYTES, left) if self.device.type == "cpu" else left

    def bounds(self, method: str, mode: Mode | None = None) -> B:
        """The bounds by a method, in the arithmetic of the run or another."""
        key = (method, mode or self.mode)
        if key not in self._bounds:
            options = {
                "method": method,
                "memory": self.batch_bytes,
                "facts": self._facts,
                "check": lambda: self.check(),
            }
            self._bounds[key] = self.kind(self.network, rounding_of(key[1], self.kernels), **options)
        return self._bounds[key]

    def need(self, method: str) -> Need:
        """The memory that bounds of one sample take by a method, measured once."""
        if method not in self._needs:
            linear = self.bounds(method).linear
            self._needs[method] = self.bounds(method).need(self.one())
            if self.memory is None:
                # A limit that the user did not set must refuse no model: it grows to what one sample takes.
                linear.memory = max(linear.memory, self._needs[method].least)
        return self._needs[method]

    def samples(self, method: str, rows: int, most: int) -> int:
        """How many samples, of ``rows`` forms each, to bound at once: at most ``most``."""
        return self.need(method).samples(self.bounds(method).linear.memory, rows, most)

    def require(self, method: str) -> None:
        """Raise UsageError (2) where ``--memory-budget`` does not hold one row of one sample."""
        if self.memory is None:
            return
        if (needed := self.fixed + int(self.need(method).least / FILL)) > self.memory:
            raise UsageError(
                f"--memory-budget must hold the bounds of one sample: {method} takes {_mb(needed)} here, {_mb(self.fixed)} of "
                f"them for the network in float64; received {_mb(self.memory)}. Allow that, or take a cheaper --method."
            )


def prediction_batch_size(network: Network, sample: torch.Tensor, memory: int | None) -> int:
    """How many samples to give the file in one run; ``sample`` is a float32 batch of one, ``memory`` in bytes."""
    with torch.no_grad():
        return fit(footprint(lambda: network(sample)), ARENA, memory, PREDICT_BATCH)


def fit(one: Footprint, copies: int, memory: int | None, most: int) -> int:
    """How many samples to compute at once, from the footprint of one; ``copies`` of its tensors exist at the same time."""
    memory = min(CHUNK_BYTES, memory or CHUNK_BYTES)
    return max(1, min(most, memory // max(copies * one.peak, 1), RUN_FLOPS // max(one.total, 1)))


def _mb(count: int) -> str:
    return f"{-(-count // 10**6)}MB"
