"""How long a training run takes on this machine, measured on its first steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.distributed.group import ProcessGroup
from pipeline.train.execution import Execution
from pipeline.train.held_out import accuracies
from pipeline.train.hyperparameters import Recipe
from pipeline.train.session import trainer_of
from pipeline.train.step import Trainer
from pipeline.train.task import Task, prepare

WARM = 5
"""Steps that are not timed: buffers are made, kernels chosen, a compiler may compile, a graph be captured."""
ENOUGH = 0.5
"""Seconds of steps, at least, of which the mean is taken."""


@dataclass(frozen=True)
class Pace:
    """Seconds: of a step before the ramp, on it and behind it; of what ends an epoch; and of all that is done once."""

    clean: float
    ramp: float
    full: float
    epoch: float
    once: float

    def seconds(self, recipe: Recipe, steps: int) -> float:
        """Of a run by ``recipe``, whose epochs have ``steps`` batches."""
        counts = _epochs(recipe)
        of_steps = sum(counts[kind] * getattr(self, kind) for kind in counts)
        return self.once + recipe.epochs * self.epoch + steps * of_steps


def _epochs(recipe: Recipe) -> dict[str, int]:
    """How many epochs of each kind a recipe has."""
    clean, ramp = min(recipe.warmup_start - 1, recipe.epochs), recipe.warmup_length
    return {"clean": clean, "ramp": ramp, "full": recipe.epochs - clean - ramp}


def measure(task: Task, device: torch.device | str, execution: Execution, group: ProcessGroup) -> Pace:
    """The pace of a task, on a copy of its network: some steps of each kind of epoch, and one pass over the held-out part.

    Every process of the group takes the same steps; all return what the first one measured.
    """
    began, recipe = time.monotonic(), task.recipe
    model = prepare(task, device=device)
    once, seconds = time.monotonic() - began, {}
    group.broadcast_(model.state_dict().values())
    run = trainer_of(task, model, device, execution, group)
    for kind, epoch in (("clean", 1), ("ramp", recipe.warmup_start), ("full", recipe.warmup_end + 1)):
        run.begin(min(epoch, recipe.epochs))
        seconds[kind], warming = _step(run, task, group)
        # What eager steps do first of all, such as imports, is done by now.
        once += warming if execution.compiled else 0.0
    began = time.monotonic()
    if task.held_out is not None and len(task.held_out[1]):
        radius = float(task.eps) * (task.high - task.low)
        accuracies(model, run.margins, *task.held_out, radius, task.low, task.high, group)
    return group.on_first(lambda: Pace(**seconds, epoch=time.monotonic() - began, once=once))


def _step(run: Trainer, task: Task, group: ProcessGroup) -> tuple[float, float]:
    """Seconds of a step, and of the first ones beyond what they will take later."""
    batches = _endless(task)

    def spend(count: int) -> float:
        began = time.monotonic()
        for i in range(count):
            run.step(i % run.steps_per_epoch, *next(batches))
        # Reading a number waits for the device.
        run.totals.tolist()
        return time.monotonic() - began

    first, count = spend(WARM), 1
    while group.on_first(_shorter(spent := spend(count))):
        count *= 2
    return spent / count, max(0.0, first - WARM * spent / count)


def _shorter(spent: float) -> Callable[[], bool]:
    return lambda: spent < ENOUGH


def _endless(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 1
    while True:
        yield from task.batches.epoch(epoch)
        epoch += 1
