"""One training run under way: its position, its history, and the checkpoint that holds both."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.core.network import Network
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import Diverged, Preempted
from pipeline.train import checkpoint as saved
from pipeline.train.diagnosis import diagnosis
from pipeline.train.events import BatchDone, Epoch, Fallback, Finished, Record, Started
from pipeline.train.execution import Execution
from pipeline.train.full_bn import fold, placements
from pipeline.train.statistics import population_statistics_
from pipeline.train.step import Trainer
from pipeline.train.task import Task, masks_of, prepare

SAVE_SHARE = 0.02
"""The share of a run's time that goes into its checkpoints."""


def trainer_of(
    task: Task,
    model: Network,
    device: torch.device | str,
    execution: Execution,
    group: ProcessGroup,
    masks: Mapping[str, Tensor] | None = None,
) -> Trainer:
    """What takes the steps of a task on ``model``, its network in training form."""
    return Trainer(
        model,
        len(task.batches),
        task.recipe,
        task.eps,
        task.low,
        task.high,
        execution=execution,
        masks=masks,
        group=group,
        teacher=task.teacher_on(device),
    )


class TrainingSession:
    """A run from its checkpoint on, or from the beginning. Raises UsageError (2) for another run's checkpoint."""

    def __init__(
        self,
        task: Task,
        device: torch.device | str,
        checkpoint: saved.Checkpoint | None,
        execution: Execution,
        group: ProcessGroup,
    ):
        self.task, self.recipe, self.checkpoint, self.group = task, task.recipe, checkpoint, group
        self.configuration = task.configuration(execution)
        state = group.on_first(lambda: checkpoint.load(self.configuration)) if checkpoint is not None else None
        zeros = masks_of(task)
        self.model = prepare(task, device=device, fresh=state is None, masks=zeros)
        group.broadcast_(self.model.state_dict().values())
        self.run = trainer_of(task, self.model, device, execution, group, zeros)
        self.epoch, self.batches_done = 1, 0
        """The current epoch, and how many of its batches are done."""
        self.history: tuple[Record, ...] = ()
        self.best: dict[str, Any] | None = None
        self.resumed, self.complete = state is not None, state is not None and state["finished"]
        self._saved_at, self._cost = time.monotonic(), 0.0
        if state is not None:
            saved.restore(state, self.model, self.run.optimiser, self.run.average)
            self.epoch, self.batches_done, self.best = state["epoch"], state["step"], state["best"]
            self.history = tuple(state["history"])
            self.run.totals.copy_(state["totals"])

    @property
    def over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch > self.recipe.epochs

    def start(self) -> Started:
        """The first event: the length of the run, where it resumes, and where BatchNorm goes."""
        task, recipe = self.task, self.recipe
        places = placements(task.network, task.sample, keep=recipe.bn == "keep") if recipe.full_bn else ()
        resumed_at = (self.epoch - 1, self.batches_done) if self.resumed else None
        return Started(recipe.epochs, len(task.batches), resumed_at, places, self.history)

    def train_epoch(self, should_stop: Callable[[], bool]) -> Iterator[BatchDone | Epoch | Fallback]:
        """Train the rest of the current epoch. Raises Diverged (6), and Preempted (75) where ``should_stop`` says so."""
        began = time.monotonic()
        self.run.begin(self.epoch)
        yield from self._train_batches(should_stop)
        record = self.run.record(self.task.held_out) | {"seconds": time.monotonic() - began}
        self.history = (*self.history, record)
        if self.recipe.select == "held-out" and self.epoch >= self.recipe.warmup_end:
            self._select(record)
        self.run.totals.zero_()
        self.epoch, self.batches_done = self.epoch + 1, 0
        if (now := time.monotonic()) - self._saved_at >= self._cost / SAVE_SHARE:
            self.save()
            self._saved_at, self._cost = now, time.monotonic() - now
        yield Epoch(record)

    def _train_batches(self, should_stop: Callable[[], bool]) -> Iterator[BatchDone | Fallback]:
        steps = len(self.task.batches)
        interval, checked = max(1, steps // 20), self.batches_done
        try:
            for i, (x, y) in enumerate(self.task.batches.epoch(self.epoch)):
                if i < self.batches_done:
                    continue
                if reason := self.run.compare_compiled(i, x, y):
                    yield Fallback(reason)
                self.run.step(i, x, y)
                self.batches_done = done = i + 1
                if self.group.any(should_stop()):
                    self.run.check()
                    self.save()
                    raise Preempted(self._stop_message())
                if done % interval == 0 or done == steps:
                    self.run.check()
                    checked = done
                if done % interval == 0:
                    yield BatchDone(self.epoch, done, self.run.eps[i], self.run.totals[0] / done)
        except Diverged as error:
            raise Diverged(f"{error} {diagnosis(self.run, self.task.batches.epoch(self.epoch), checked)}") from None

    def finish(self) -> Finished:
        """The last event, with the trained network; its checkpoint is saved."""
        if not self.complete:
            self.run.deliver(None if self.best is None else self.best["model"])
            if self.recipe.population_bn:
                # Each process computes them alone: layers of torch.nn need whole batches, and this is one pass in a run.
                population_statistics_(self.model, (x for x, _ in self.task.batches.epoch(self.epoch)))
            self.save(finished=True)
        trained = (
            fold(self.model, keep=self.recipe.bn == "keep") if self.recipe.full_bn else copy.deepcopy(self.model).eval()
        )
        epoch = self.recipe.epochs if self.best is None else self.best["epoch"]
        return Finished(trained.cpu(), self.history, epoch)

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint, where the run keeps one and this is the first process."""
        if self.checkpoint is None or not self.group.is_first:
            return
        position = {"epoch": self.epoch, "step": self.batches_done, "finished": finished, "history": list(self.history)}
        position |= {"totals": self.run.totals.cpu(), "best": self.best, "configuration": self.configuration}
        self.checkpoint.save(saved.snapshot(self.model, self.run.optimiser, self.run.average) | position)

    def _select(self, record: Record) -> None:
        """Keep the weights of the epoch that certifies most of the held-out part, the last one of equals."""
        if self.best is not None and record["held_certified"] < self.best["held_certified"]:
            return
        with self.run.as_delivered():
            state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.best = {"epoch": int(record["epoch"]), "held_certified": record["held_certified"], "model": state}

    def _stop_message(self) -> str:
        resumption = "no checkpoint is kept"
        if self.checkpoint is not None:
            resumption = f"{self.checkpoint.path} holds it, and the same command goes on"
        return f"training was stopped in epoch {self.epoch} of {self.recipe.epochs}; {resumption}."
