"""Training, from the first epoch to the last: it yields events and prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pipeline.distributed.group import SINGLE, ProcessGroup
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.events import Event
from pipeline.train.execution import PLAIN, Execution
from pipeline.train.session import TrainingSession
from pipeline.train.task import Task


def train(
    task: Task,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    execution: Execution = PLAIN,
    group: ProcessGroup = SINGLE,
) -> Iterator[Event]:
    """Train a copy of the task's network by its recipe and yield Started, BatchDone, Epoch and at last Finished.

    With ``checkpoint`` the run is saved at the end of an epoch, as often as takes no more than a fiftieth of the time, and when
    it stops or finishes; the same call goes on from there, to the same result. ``should_stop`` is called after each batch. Every
    process of a ``group`` is given the same arguments and yields the same events; weights and checkpoint, which the first one
    writes, are those of a single process but for rounding. Raises UsageError (2) for another run's checkpoint, Diverged (6) for
    a loss or gradient that is not finite, Preempted (75) where ``should_stop`` says so.
    """
    session = TrainingSession(task, device, checkpoint, execution, group)
    yield session.start()
    while not session.over:
        yield from session.train_epoch(should_stop)
    yield session.finish()
