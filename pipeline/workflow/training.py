"""The training of a run: its data on the device, a part of it held out, and a checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch

from pipeline import train
from pipeline.crew import Crew
from pipeline.data import Augment, Fitted, Loader
from pipeline.errors import InputRejected
from pipeline.seal import Seal
from pipeline.settings import Settings
from pipeline.train import Recipe
from pipeline.workflow.events import Note
from pipeline.workflow.runs import RunFolder
from pipeline.workflow.subject import Subject, device_of


def trained_network(
    subject: Subject,
    images: Fitted,
    recipe: Recipe,
    settings: Settings,
    run: RunFolder,
    key: str,
    should_stop: Callable[[], bool],
    execution: train.Execution,
    crew: Crew,
) -> Generator[Any, None, train.Finished]:
    """Train after ``recipe``, or go on from where the same command stopped. Raises InputRejected where nothing can be trained."""
    if not subject.network.trainable():
        raise InputRejected(
            "nothing in this file can be trained: it has no weights with a way back into it; see `pipeline inspect`."
        )
    if subject.network.inputs[0].shape[0] is not None:
        raise InputRejected(
            "training needs batches, and this file fixes its batch where it cannot be freed; export it with a free one."
        )
    device = device_of(settings)
    torch.manual_seed(recipe.seed)
    keep, held = _held_out(images, recipe)
    loader = Loader(
        images.images[keep],
        images.labels[keep],
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=Augment(recipe.crop, recipe.flip),
        device=device,
        layout=images.layout,
    )
    aside = (torch.from_numpy(images.images[held]).to(device), torch.from_numpy(images.labels[held]).to(device))
    kept = crew.first(lambda: run.begin(key))
    assert settings.eps is not None
    low, high = images.value_range
    watched = aside if len(held) else None
    task = train.Task(subject.network, loader, recipe, settings.eps[-1], watched, low, high, identity={"run": key})
    events = train.train(
        task,
        device=device,
        # The first process alone reads and writes it, so that the others need no key.
        checkpoint=train.Checkpoint(run.checkpoint, run.seal() or Seal(b"")) if kept else None,
        should_stop=should_stop,
        execution=execution,
        crew=crew,
    )
    for event in events:
        if isinstance(event, train.Finished):
            return event
        yield Note(event.reason, warning=True) if isinstance(event, train.Fallback) else event
    raise AssertionError("training ends with Finished")


def _held_out(images: Fitted, recipe: Recipe) -> tuple[Any, Any]:
    """Indices trained on, and those on which progress is shown, and by which an epoch may be chosen."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed)).numpy()
    count = round(len(images) * recipe.held_out)
    return order[count:], order[:count]
