"""One batch spread over several processes: means and sums over all of it, through which gradients flow.

Process ``r`` computes the loss ``loss_r`` of its samples, a share ``s_r`` of the batch, whose loss is ``sum_r s_r loss_r``.
Where ``loss_r`` reads the whole batch (BatchNorm's statistics, the regularisers), it reads sums over all processes, whose
gradients are summed likewise: so the gradients of ``s_r loss_r``, summed over processes, are those of one process that holds the
whole batch. DistributedDataParallel is no help: it takes the mean over processes, requires every parameter in every step, and
torch.compile splits what it wraps at every bucket. The sum is taken by ``ProcessGroup.all_reduce_``, once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.distributed.group import ProcessGroup, collective
from pipeline.errors import UsageError


@dataclass(frozen=True)
class Batch:
    """A batch that this process holds whole: local sums and means are those of the batch."""

    @property
    def rows(self) -> slice:
        """Which samples of the batch this process has."""
        return slice(None)

    @property
    def share(self) -> float:
        """The fraction of the batch's samples that this process has."""
        return 1.0

    @property
    def whole(self) -> bool:
        return True

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes, the same bits in each; its gradient is summed over them too."""
        return value

    def mean(self, mean: Tensor) -> Tensor:
        """The mean over the whole batch, from the mean over this part."""
        return mean

    def count(self, n: int) -> int:
        """A count for the whole batch, from the ``n`` of this part, where each sample counts the same."""
        return n

    def uniform(self, shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for the samples of this part: those that one process alone would draw for them."""
        whole = (self.count(shape[0]), *shape[1:])
        return torch.rand(whole, generator=generator, dtype=like.dtype, device=like.device)[self.rows]


WHOLE = Batch()


@dataclass(frozen=True)
class BatchPart(Batch):
    """This process's part of a batch of ``samples``. Raises UsageError (2) where some process would have no sample."""

    samples: int
    group: ProcessGroup

    def __post_init__(self) -> None:
        if self.samples < self.group.world_size:
            raise UsageError(
                f"each process needs a sample of every batch; a batch of {self.samples} cannot be spread over "
                f"{self.group.world_size} processes: use fewer --devices or a larger --batch-size."
            )

    @property
    def rows(self) -> slice:
        return self.group.rows(self.samples)

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


def part_of(samples: int, group: ProcessGroup) -> Batch:
    """This process's part of a batch of ``samples``: all of it where it works alone. Raises UsageError (2), see BatchPart."""
    return BatchPart(samples, group) if group.world_size > 1 else WHOLE


class _Sum(torch.autograd.Function):
    """``y = sum_r x_r`` in every process; as the loss is a sum over processes too, ``dL/dx_r = sum_q dL_q/dy``."""

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
    with collective():
        dist.all_reduce(total)
    return total
