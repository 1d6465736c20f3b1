"""Several processes that meet over gloo, forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.distributed.group import ProcessGroup, process_group

PATIENCE = 600.0


def together(work: Callable[..., Any], world: int, folder: Path, *arguments: Any) -> list[Any]:
    """What ``work(group, *arguments)`` returns in each of ``world`` processes, in order of rank; tensors and containers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.process_groups", "pipeline.train.loop", "pipeline.data", "tests.nets"])
    address = free_port()
    processes = [
        context.Process(target=_work, args=(work, rank, world, address, folder / f"{rank}.pt", arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    hung = [process for process in processes if process.exitcode is None]
    for process in hung:
        process.kill()
    assert [process.exitcode for process in processes] == [0] * world, "a process failed or hung"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _work(work: Callable[..., Any], rank: int, world: int, port: int, path: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group() as group:
        assert group == ProcessGroup(rank, world)
        torch.save(work(group, *arguments), path)
