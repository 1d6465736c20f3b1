"""One batch spread over several processes: means and sums over the whole of it, which gradients flow through.

Each process computes the loss of its samples, ``loss_r``; with ``s_r`` its share of the samples the batch's is
``sum_r s_r loss_r``. Where ``loss_r`` reads the whole batch (BatchNorm's statistics, the regularisers), it reads sums over
all processes, whose gradient is summed likewise: so the sum over processes of the gradients of ``s_r loss_r`` is the gradient
of one process that holds the whole batch. DistributedDataParallel takes the mean over processes instead, wants every parameter
used in every step, and torch.compile splits what it wraps at every bucket: the sum is taken by ``Crew.add_``, once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.distributed.group import Crew, meeting
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Batch:
    """A batch that this process holds whole: sums and means over it are what they are here."""

    @property
    def rows(self) -> slice:
        """Which samples of the batch this process has."""
        return slice(None)

    @property
    def share(self) -> float:
        """The part of the batch that this process has."""
        return 1.0

    @property
    def whole(self) -> bool:
        return True

    def sum(self, value: Tensor) -> Tensor:
        """The sum of the values of all processes, the same bits in each; its gradient is the sum of theirs."""
        return value

    def mean(self, mean: Tensor) -> Tensor:
        """The mean over the whole batch from that over this part of it."""
        return mean

    def count(self, n: int) -> int:
        """How many there are in the whole batch of what this part has ``n`` of."""
        return n

    def uniform(self, shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1] for samples of this part: those that one process would draw for them."""
        everyone = (self.count(shape[0]), *shape[1:])
        return torch.rand(everyone, generator=generator, dtype=like.dtype, device=like.device)[self.rows]


WHOLE = Batch()


@dataclass(frozen=True)
class BatchPart(Batch):
    """This process's part of a batch of ``samples``. Raises UsageError where a process would be left without any."""

    samples: int
    crew: Crew

    def __post_init__(self) -> None:
        if self.samples < self.crew.world:
            raise UsageError(
                f"each process needs a sample of every batch; a batch of {self.samples} cannot be spread over "
                f"{self.crew.world} processes: use fewer --devices or a larger --batch-size."
            )

    @property
    def rows(self) -> slice:
        return self.crew.rows(self.samples)

    @property
    def size(self) -> int:
        """How many samples this process has."""
        return self.rows.stop - self.rows.start

    @property
    def share(self) -> float:
        return self.size / self.samples

    @property
    def whole(self) -> bool:
        return False

    def sum(self, value: Tensor) -> Tensor:
        return _Sum.apply(value)

    def mean(self, mean: Tensor) -> Tensor:
        return _Sum.apply(mean * self.share)

    def count(self, n: int) -> int:
        return n // self.size * self.samples


def part_of(samples: int, crew: Crew) -> Batch:
    """What this process has of a batch: all of it where it works alone."""
    return BatchPart(samples, crew) if crew.world > 1 else WHOLE


class _Sum(torch.autograd.Function):
    """``y = sum_r x_r`` in every process; the loss being a sum over processes too, ``dL/dx_r = sum_q dL_q/dy``."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    with meeting():
        dist.all_reduce(total)
    return total
