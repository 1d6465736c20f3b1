"""Training, from the first epoch to the last: it yields events and prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pipeline.distributed.group import ALONE, Crew
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
    crew: Crew = ALONE,
) -> Iterator[Event]:
    """Train a copy of the task's network after its recipe and yield Started, Batch, Epoch and at last Finished.

    With ``select = "held-out"`` the epoch that certifies most of the held-out part, once eps is whole, is the one delivered.
    With ``checkpoint`` the run is saved at the end of an epoch, as often as takes no more than a fiftieth of the time, and when
    it stops or finishes; the same call goes on from there, to the same result. ``should_stop`` is asked after each batch. Each
    process of a ``crew`` is given the same and ends with the same; what is learnt, and the checkpoint, which the first one
    writes, are those of one process but for rounding. Raises UsageError (2) for another run's checkpoint, Diverged (6) for a
    loss that is not finite, Preempted (75) when asked to stop.
    """
    session = TrainingSession(task, device, checkpoint, execution, crew)
    yield session.started()
    while not session.over:
        yield from session.train_epoch(should_stop)
    yield session.finished()
