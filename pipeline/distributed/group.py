"""Several processes at one piece of work, started by ``--devices`` or torchrun: each does its share, all learn all results."""

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
"""How long one process may wait for another's unit of work; of one that ends, the others hear at once."""


@dataclass(frozen=True)
class Crew:
    """This process among ``world``; the one of rank 0 writes and prints.

    What is said of methods holds for all processes, each of which must call them, in the same order. Raises
    EnvironmentFailure (74) where another process is gone.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """This process's share of ``n`` things in a row; shares differ by at most one."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def share(self, mine: T) -> list[T]:
        """What every process hands in, in order of rank."""
        if self.world == 1:
            return [mine]
        everyone: list[T | None] = [None] * self.world
        with meeting():
            dist.all_gather_object(everyone, mine)
        return everyone  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """What the first process finds, or raises, by ``work``, which it alone does: files are read and written at one place."""
        if self.world == 1:
            return work()
        told: list[tuple[T | None, PipelineError | None]] = [(None, None)]
        if self.leads:
            try:
                told = [(work(), None)]
            except PipelineError as error:
                told = [(None, error)]
        with meeting():
            dist.broadcast_object_list(told)
        found, fault = told[0]
        if fault is not None:
            raise fault
        return found  # type: ignore[return-value]

    def each(self, work: Callable[[], T], *, first_alone: bool) -> T:
        """What this process finds by ``work``; ``first_alone``: after the first has, so that what that one fetches is there."""
        if not first_alone or self.world == 1:
            return work()
        found = [work()] if self.leads else []
        self.share(None)
        return found[0] if found else work()

    def any(self, mine: bool) -> bool:
        """Whether it is so for any process."""
        if self.world == 1:
            return mine
        said = torch.tensor(int(mine))
        self.add_([said])
        return bool(said)

    @torch.no_grad()
    def add_(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor, in place, the sum of its values in all processes: one message, the same bits for all."""
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with meeting():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view(tensor.shape))

    @torch.no_grad()
    def agree_(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor, in place, its value in the first process."""
        if self.world > 1:
            with meeting():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)


ALONE = Crew()
"""One process, which does everything."""


@contextmanager
def gathered() -> Iterator[Crew]:
    """The processes that were started together (RANK, WORLD_SIZE, MASTER_ADDR); else this one alone.

    They meet over NCCL for what lies on GPUs, as long as each has one of its own, and over gloo for everything else.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
        if dist.is_nccl_available() and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus:
            backend = "cpu:gloo,cuda:nccl"
    with meeting():
        dist.init_process_group(backend, timeout=PATIENCE)
    apart = False
    try:
        yield Crew(dist.get_rank(), dist.get_world_size())
    except Exception:
        # NCCL would wait for the others, who wait for us: the end of this process tells them.
        apart = backend != "gloo"
        raise
    finally:
        if not apart:
            dist.destroy_process_group()


@contextmanager
def meeting() -> Iterator[None]:
    """Around a message: what gloo and NCCL raise where another process is gone is the environment's failure."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise EnvironmentFailure(
            "another process of this run is gone or cannot be reached; where it failed by itself, its own message says why."
        ) from error
