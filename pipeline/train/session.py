"""One training run under way: its position, its history, and the checkpoint that holds both."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pipeline.distributed.group import Crew
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


class TrainingSession:
    """A run from where its checkpoint left it, or from the beginning. Raises UsageError (2) for another run's checkpoint."""

    def __init__(
        self,
        task: Task,
        device: torch.device | str,
        checkpoint: saved.Checkpoint | None,
        execution: Execution,
        crew: Crew,
    ):
        self.task, self.recipe, self.checkpoint, self.crew = task, task.recipe, checkpoint, crew
        self.configuration = task.configuration(execution)
        state = crew.first(lambda: checkpoint.load(self.configuration)) if checkpoint is not None else None
        zeros = masks_of(task)
        self.model = prepare(task, device=device, fresh=state is None, masks=zeros)
        crew.agree_(self.model.state_dict().values())
        self.run = Trainer(
            self.model,
            len(task.batches),
            task.recipe,
            task.eps,
            task.low,
            task.high,
            execution=execution,
            masks=zeros,
            crew=crew,
        )
        self.epoch, self.done = 1, 0
        """The epoch at hand, and how many of its batches are done."""
        self.history: tuple[Record, ...] = ()
        self.best: dict[str, Any] | None = None
        self.resumed, self.delivered = state is not None, state is not None and state["finished"]
        self._saved_at, self._cost = time.monotonic(), 0.0
        if state is not None:
            saved.restore(state, self.model, self.run.optimiser, self.run.average)
            self.epoch, self.done, self.best = state["epoch"], state["step"], state["best"]
            self.history = tuple(state["history"])
            self.run.totals.copy_(state["totals"])

    @property
    def over(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch > self.recipe.epochs

    def started(self) -> Started:
        """How long the run is, where it goes on, and what becomes of each layer."""
        task, recipe = self.task, self.recipe
        found = placements(task.network, task.sample, keep=recipe.bn == "keep") if recipe.full_bn else ()
        resumed = (self.epoch - 1, self.done) if self.resumed else None
        return Started(recipe.epochs, len(task.batches), resumed, found, self.history)

    def train_epoch(self, should_stop: Callable[[], bool]) -> Iterator[BatchDone | Epoch | Fallback]:
        """What is left of the epoch at hand. Raises Diverged (6), and Preempted (75) once asked to stop."""
        began = time.monotonic()
        self.run.begin(self.epoch)
        yield from self._train_batches(should_stop)
        record = self.run.record(self.task.held) | {"seconds": time.monotonic() - began}
        self.history = (*self.history, record)
        if self.recipe.select == "held-out" and self.epoch >= self.recipe.warmup_end:
            self._select(record)
        self.run.totals.zero_()
        self.epoch, self.done = self.epoch + 1, 0
        if (now := time.monotonic()) - self._saved_at >= self._cost / SAVE_SHARE:
            self.save()
            self._saved_at, self._cost = now, time.monotonic() - now
        yield Epoch(record)

    def _train_batches(self, should_stop: Callable[[], bool]) -> Iterator[BatchDone | Fallback]:
        steps = len(self.task.batches)
        often, checked = max(1, steps // 20), self.done
        try:
            for i, (x, y) in enumerate(self.task.batches.epoch(self.epoch)):
                if i < self.done:
                    continue
                if reason := self.run.compare_compiled(i, x, y):
                    yield Fallback(reason)
                self.run.step(i, x, y)
                self.done = i + 1
                if self.crew.any(should_stop()):
                    self.run.check()
                    self.save()
                    raise Preempted(self._stopped())
                if self.done % often == 0 or self.done == steps:
                    self.run.check()
                    checked = self.done
                if self.done % often == 0:
                    yield BatchDone(self.epoch, self.done, self.run.eps[i], self.run.totals[0] / self.done)
        except Diverged as error:
            raise Diverged(f"{error} {diagnosis(self.run, self.task.batches.epoch(self.epoch), checked)}") from None

    def finished(self) -> Finished:
        """The network that is delivered."""
        if not self.delivered:
            self.run.deliver(None if self.best is None else self.best["model"])
            if self.recipe.population_bn:
                # By each process alone: the layers of torch.nn take whole batches, and this is one pass in a whole run.
                population_statistics_(self.model, (x for x, _ in self.task.batches.epoch(self.epoch)))
            self.save(finished=True)
        trained = (
            fold(self.model, keep=self.recipe.bn == "keep") if self.recipe.full_bn else copy.deepcopy(self.model).eval()
        )
        chosen = self.recipe.epochs if self.best is None else self.best["epoch"]
        return Finished(trained.cpu(), self.history, chosen)

    def save(self, *, finished: bool = False) -> None:
        """Write the checkpoint, if there is one; the first process does."""
        if self.checkpoint is None or not self.crew.leads:
            return
        position = {"epoch": self.epoch, "step": self.done, "finished": finished, "history": list(self.history)}
        position |= {"totals": self.run.totals.cpu(), "best": self.best, "configuration": self.configuration}
        self.checkpoint.save(saved.snapshot(self.model, self.run.optimiser, self.run.average) | position)

    def _select(self, record: Record) -> None:
        """Keep the weights of the epoch that certifies most of the held-out part, the later one where two are alike."""
        if self.best is not None and record["held_certified"] < self.best["held_certified"]:
            return
        with self.run.delivered():
            state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.best = {"epoch": int(record["epoch"]), "held_certified": record["held_certified"], "model": state}

    def _stopped(self) -> str:
        kept = "no checkpoint is kept"
        if self.checkpoint is not None:
            kept = f"{self.checkpoint.path} holds it, and the same command goes on"
        return f"training was stopped in epoch {self.epoch} of {self.recipe.epochs}; {kept}."
