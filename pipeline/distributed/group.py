"""Several processes on one piece of work, started by ``--devices`` or torchrun: each does its share, all get all results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import EnvironmentFailure, PipelineError

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long one process may wait for another's unit of work; a process that ends is noticed at once."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process, of rank ``rank``, among ``world`` processes; the one of rank 0 writes and prints.

    Methods that communicate are collective: every process must call them, in the same order. They raise EnvironmentFailure
    (74) where another process is gone.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """This process's share of ``n`` items in order; the sizes of shares differ by at most one."""
        return slice(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        with collective():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def on_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, or raises, in the first process, the only one to run it: files are read and written once."""
        if self.world_size == 1:
            return work()
        outcome: list[tuple[T | None, PipelineError | None]] = [(None, None)]
        if self.is_first:
            try:
                outcome = [(work(), None)]
            except PipelineError as error:
                outcome = [(None, error)]
        with collective():
            dist.broadcast_object_list(outcome)
        result, failure = outcome[0]
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    def on_each(self, work: Callable[[], T], *, first_alone: bool) -> T:
        """What ``work`` returns here; with ``first_alone`` the others wait for the first, so that they find what it fetched."""
        if not first_alone or self.world_size == 1:
            return work()
        results = [work()] if self.is_first else []
        self.all_gather(None)
        return results[0] if results else work()

    def any(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        if self.world_size == 1:
            return condition
        count = torch.tensor(int(condition))
        self.all_reduce_([count])
        return bool(count)

    @torch.no_grad()
    def all_reduce_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all processes: one message, the same bits in each."""
        tensors = list(tensors)
        if self.world_size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with collective():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view(tensor.shape))

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its value in the first process."""
        if self.world_size > 1:
            with collective():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


SINGLE = ProcessGroup()
"""One process, which does everything."""


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes that were started together, by RANK, WORLD_SIZE and MASTER_ADDR; this one alone where these are not set.

    Tensors on GPUs travel over NCCL, as long as each process has a GPU of its own; everything else travels over gloo.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        yield SINGLE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        if dist.is_nccl_available() and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus:
            backend = "cpu:gloo,cuda:nccl"
    with collective():
        dist.init_process_group(backend, timeout=PATIENCE)
    failed = False
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    except Exception:
        # Destroying an NCCL group would wait for the others, who wait for this one: they notice when the process ends.
        failed = backend != "gloo"
        raise
    finally:
        if not failed:
            dist.destroy_process_group()


@contextmanager
def collective() -> Iterator[None]:
    """Around a collective operation: raise EnvironmentFailure (74) for what gloo and NCCL raise where a process is gone."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise EnvironmentFailure(
            "another process of this run is gone or cannot be reached; where it failed by itself, its own message says why."
        ) from error
