"""``retrain --compare``: recipes in brief runs on the user's data, judged on a held-out part; the best is trained in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import train
from pipeline.commands import training
from pipeline.commands.choices import Choices
from pipeline.commands.events import Event, Note
from pipeline.commands.retrain_settings import recipe_of
from pipeline.commands.subject import Subject, device_of
from pipeline.commands.training_report import collapse
from pipeline.data import Dataset, Fitted
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import Diverged, Preempted, UsageError
from pipeline.settings import Settings
from pipeline.train import Recipe
from pipeline.train.tournament import Entry, chosen, spread, verdict

SHARE = 1 / 8
"""Of a run's epochs that each run of the comparison has."""
STEPS = 600
"""And at least so many steps, or the whole run: in fewer, recipes have not begun to differ (docs/results.md)."""
RATES = (1.0, 2.0)
"""By these the first seed multiplies each recipe's learning rate, where none is said; the better one is compared."""
SEEDS = 3
LENGTHS = ("epochs", "warmup_start", "warmup_length", "decay_epochs")
"""Settings of the full run that a brief one scales by itself."""


@dataclass(frozen=True, eq=False)
class RecipeComparison:
    """Recipes on the same data, each a brief run a seed; scores are kept, so that what has finished is not run again."""

    subject: Subject
    images: Fitted
    data: Dataset
    settings: Settings
    group: ProcessGroup
    choices: Choices
    should_stop: Callable[[], bool]

    def brief(self, entry: Entry, seed: int = 0) -> Recipe:
        """The recipe of a brief run."""
        full = recipe_of(self.subject, self.images, self.settings, entry)
        steps = math.ceil(len(self.images) * (1 - full.held_out) / full.batch_size)
        epochs = min(full.epochs, max(round(SHARE * full.epochs), math.ceil(STEPS / steps)))
        lengths = {"seed": full.seed + seed, "epochs": epochs}
        return recipe_of(self.subject, self.images, self.settings, entry, LENGTHS, **lengths)

    def score(self, entry: Entry, seed: int) -> dict[str, Any]:
        """Natural and certified accuracy on the held-out part after the last epoch, and whether the network guesses."""
        recipe, teacher = training.with_teacher(self.subject, self.brief(entry, seed), self.settings, self.group)
        device = device_of(self.settings)
        steps = recipe.epochs * math.ceil(len(self.images) / recipe.batch_size)
        execution = train.Execution.of(
            device, self.settings.precision, self.settings.compile, self.settings.graph, steps=steps
        )
        key = training.training_key(self.subject, self.data, recipe, self.settings, execution)
        if (scores := self.choices.get(key)) is None:
            execution = execution.try_compiling(device, whole=recipe.one_graph)
            scores = self._trained(
                recipe, training.task_of(self.subject, self.images, recipe, self.settings, teacher), execution
            )
            self.choices.put(key, scores)
        return dict(scores)

    def _trained(self, recipe: Recipe, task: train.Task, execution: train.Execution) -> dict[str, Any]:
        torch.manual_seed(recipe.seed)
        record: Mapping[str, Any] = {}
        stop = self.should_stop
        try:
            for event in train.train(
                task, device=device_of(self.settings), should_stop=stop, execution=execution, group=self.group
            ):
                record = event.record if isinstance(event, train.Epoch) else record
        except Diverged:
            return {"natural": 0.0, "certified": 0.0, "guesses": True}
        except Preempted:
            raise Preempted(
                "the comparison was stopped; what has finished of it is kept, and the same command goes on."
            ) from None
        assert task.held_out is not None
        guesses = collapse(record, task.held_out[1].cpu().numpy(), recipe) is not None
        return {"natural": record["held_natural"], "certified": record["held_certified"], "guesses": guesses}


def compare(
    comparison: RecipeComparison, names: Sequence[str]
) -> Generator[Event, None, tuple[Entry, tuple[str, ...]]]:
    """The recipe and rate to train with in full, and what was found, in lines. Raises UsageError (2) where none learns.

    Each recipe takes the better of its learning rates by the first seed, then the other seeds; the best mean of certified
    accuracy by IBP on the held-out part is chosen. It is said to lead only where it is ahead with every seed.
    """
    rated: dict[str, Entry] = {}
    runs_of: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        own = comparison.brief(Entry(name)).learning_rate
        rates = (1.0,) if "learning_rate" in comparison.settings.retrain or "learning_rate=" in name else RATES
        entries = [Entry(name, f"{own * factor:g}") for factor in rates]
        yield Note(f"comparing {name}: {comparison.brief(entries[0]).epochs} epochs, {SEEDS} seeds")
        first = {entry: comparison.score(entry, 0) for entry in entries}
        rated[name] = max(entries, key=lambda entry: (not first[entry]["guesses"], first[entry]["certified"]))
        runs_of[name] = [comparison.score(rated[name], seed) for seed in range(SEEDS)]
    scores = {
        name: [100 * one["certified"] for one in runs]
        for name, runs in runs_of.items()
        if not any(one["guesses"] for one in runs)
    }
    if not any(map(any, scores.values())):
        raise UsageError(
            "no recipe of --compare certifies a held-out sample after a brief run; name one with --recipe, or give more --epochs."
        )
    best, leads = chosen(scores)
    lines = [*_table(rated, runs_of), *_pairs(scores)]
    why = (
        "is ahead of each other with every seed"
        if leads and len(scores) > 1
        else "has the best mean, and no more is claimed"
    )
    lines.append(f"{best} {why}: it is trained in full, at learning rate {rated[best].rate}")
    for line in lines:
        yield Note(line)
    return rated[best], tuple(lines)


def _table(rated: Mapping[str, Entry], runs_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = []
    for name, runs in runs_of.items():
        natural, certified = (spread([100 * one[what] for one in runs]) for what in ("natural", "certified"))
        out = ", no better than guessing with some seed, and out" if any(one["guesses"] for one in runs) else ""
        lines.append(
            f"{name} at learning rate {rated[name].rate}: {certified} % certified by IBP, {natural} % natural, held out, "
            f"{len(runs)} seeds{out}"
        )
    return lines


def _pairs(scores: Mapping[str, Sequence[float]]) -> list[str]:
    names = list(scores)
    return [
        verdict(one, two, [a - b for a, b in zip(scores[one], scores[two], strict=True)])
        for i, one in enumerate(names)
        for two in names[i + 1 :]
    ]
