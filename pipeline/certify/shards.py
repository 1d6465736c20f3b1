"""Several processes on one data set: started by torchrun, each does its share, and all of them learn all results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long one process may wait for another's unit of work."""


@dataclass(frozen=True)
class Crew:
    """This process among ``world``; the one of rank 0 writes and prints."""

    rank: int = 0
    world: int = 1

    def share(self, mine: T) -> list[T]:
        """What every process hands in, in order of rank; all must call it."""
        if self.world == 1:
            return [mine]
        everyone: list[T | None] = [None] * self.world
        dist.all_gather_object(everyone, mine)
        return everyone  # type: ignore[return-value]


@contextmanager
def crew() -> Iterator[Crew]:
    """The processes that torchrun started (RANK, WORLD_SIZE, MASTER_ADDR), meeting over gloo; else this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not {"RANK", "MASTER_ADDR"} <= os.environ.keys():
        yield Crew()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Crew(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
