"""``retrain --budget``: as many epochs as this machine trains in the time, chosen once by timing steps, then kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator

from pipeline import train
from pipeline.commands.choices import Choices
from pipeline.commands.events import Event, Note
from pipeline.commands.subject import device_of
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.train import Recipe
from pipeline.train.pace import Pace, measure

SHARE = 0.9
"""Of the budget that is planned with: checkpoints and the last pass over the data take the rest, or a busier hour does."""
LEAST = 3
"""Epochs: one before the ramp, one on it, one at the full eps."""


def within_budget(
    settings: Settings,
    whole: Recipe,
    of_length: Callable[[int], Recipe],
    key: str,
    task_of: Callable[[Recipe], train.Task],
    choices: Choices,
    execution: train.Execution,
    group: ProcessGroup,
) -> Generator[Event, None, Recipe]:
    """The recipe with as many epochs as fit into ``settings.budget``, a choice that holds for this command.

    ``whole`` is the recipe at its own length, which is the most that is chosen, ``of_length`` the same of a length, ``key`` the
    digest of all that a run of ``whole`` depends on. Training alone counts, certification does not. Raises UsageError (2) where
    ``LEAST`` epochs take longer.
    """
    assert settings.budget is not None
    question = hashlib.sha256(json.dumps([key, settings.budget]).encode()).hexdigest()
    epochs = choices.get(question)
    if epochs is not None:
        yield Note(f"{epochs} epochs, as chosen for --budget when this command began")
    else:
        yield Note("timing steps, to choose the number of epochs for --budget")
        # A shortened recipe has all kinds of epochs.
        task = task_of(of_length(max(LEAST, whole.epochs // 2)))
        pace = measure(task, device_of(settings), execution, group)
        epochs = most(whole, of_length, pace, len(task.batches), settings.budget)
        choices.put(question, epochs)
        yield Note(_summary(whole, of_length(epochs), pace, len(task.batches), settings.budget))
    return of_length(epochs)


def most(whole: Recipe, of_length: Callable[[int], Recipe], pace: Pace, steps: int, budget: float) -> int:
    """The largest number of epochs that takes no longer than the budget. Raises UsageError."""
    for epochs in range(whole.epochs, min(LEAST, whole.epochs) - 1, -1):
        least = pace.seconds(of_length(epochs), steps)
        if least <= SHARE * budget:
            return epochs
    raise UsageError(
        f"--budget {budget:.0f}s is too short: {epochs} epochs, the least with a ramp, take some {least:.0f} s here. "
        f"Give {least / SHARE:.0f}s or more, fewer samples, or say --epochs."
    )


def _summary(whole: Recipe, recipe: Recipe, pace: Pace, steps: int, budget: float) -> str:
    """What was chosen, and why."""
    duration, kinds = (
        pace.seconds(recipe, steps),
        {"before the ramp": pace.clean, "on it": pace.ramp, "behind it": pace.full},
    )
    each = ", ".join(f"{1000 * seconds:.3g} {where}" for where, seconds in kinds.items())
    if recipe.epochs == whole.epochs:
        why = f"which is the recipe's own length; --epochs says more. They take some {duration:.0f} s"
    else:
        why = (
            f"of the recipe's {whole.epochs}: they take some {duration:.0f} s, one more would not fit into {SHARE:.0%}"
        )
    return (
        f"--budget {budget:.0f}s: {recipe.epochs} epochs of {recipe.name}, {why} of the budget here (milliseconds of a step: "
        f"{each}). Certification is not counted"
    )
