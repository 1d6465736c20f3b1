"""The training of a run: its data on the device, a part held out, the teacher, and a checkpoint to go on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline import train
from pipeline.commands.events import Note
from pipeline.commands.run_data import test_part
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.commands.training_report import collapse
from pipeline.core.network import Network
from pipeline.data import Augment, Dataset, Fitted, Loader, has_part, hold_out, load
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import InputRejected
from pipeline.settings import Settings, metadata_of
from pipeline.system.run_folder import RunFolder
from pipeline.system.seal import Seal
from pipeline.train import Recipe

ASIDE = 0.1
"""The share of a data set without a test part that is set aside for certification, never trained on."""


def with_teacher(
    subject: Subject, recipe: Recipe, settings: Settings, group: ProcessGroup
) -> tuple[Recipe, Network | None]:
    """The network that the recipe's loss learns from, if any; and the recipe, which names a file by its digest.

    Raises InputRejected (3) where the file is none that ``retrain`` could open.
    """
    if recipe.teacher == "none":
        return recipe, None
    if recipe.teacher == train.GIVEN:
        return recipe, subject.network
    other = open_model(opened(Path(recipe.teacher), group), settings.model_copy(update={"output": None}))
    return recipe.model_copy(update={"teacher": f"SHA-256 {other.file.digests.sha256}"}), other.network


def task_of(
    subject: Subject, images: Fitted, recipe: Recipe, settings: Settings, teacher: Network | None, key: str = ""
) -> train.Task:
    """What is to be trained, on the device. Raises InputRejected (3) where nothing can be."""
    if not subject.network.trainable():
        raise InputRejected(
            "nothing in this file can be trained: it has no weights with a way back into it; see `pipeline inspect`."
        )
    if subject.network.inputs[0].shape[0] is not None:
        raise InputRejected(
            "training needs batches, and this file fixes its batch where it cannot be freed; export it with a free one."
        )
    device = device_of(settings)
    keep, held_out = _held_out(images, recipe)
    loader = Loader(
        images.images[keep],
        images.labels[keep],
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        augment=Augment(recipe.crop, recipe.flip),
        device=device,
        layout=images.layout,
    )
    aside = (torch.from_numpy(images.images[held_out]).to(device), torch.from_numpy(images.labels[held_out]).to(device))
    assert settings.eps is not None
    low, high = images.value_range
    watched = aside if len(held_out) else None
    eps, identity = settings.eps[-1], {"run": key}
    return train.Task(subject.network, loader, recipe, eps, watched, low, high, identity=identity, teacher=teacher)


def trained_network(
    subject: Subject,
    images: Fitted,
    recipe: Recipe,
    settings: Settings,
    run: RunFolder,
    key: str,
    should_stop: Callable[[], bool],
    execution: train.Execution,
    group: ProcessGroup,
    teacher: Network | None,
) -> Generator[Any, None, train.Finished]:
    """Train after ``recipe``, or go on from where the same command stopped. Raises InputRejected where nothing can be trained."""
    task = task_of(subject, images, recipe, settings, teacher, key)
    device = device_of(settings)
    torch.manual_seed(recipe.seed)
    keeps = group.on_first(lambda: run.begin(key))
    _, held_out = _held_out(images, recipe)
    events = train.train(
        task,
        device=device,
        # The first process alone reads and writes it, so that the others need no key.
        checkpoint=train.Checkpoint(run.checkpoint, run.seal() or Seal(b"")) if keeps else None,
        should_stop=should_stop,
        execution=execution,
        group=group,
    )
    warned = False
    for event in events:
        if isinstance(event, train.Finished):
            return event
        yield Note(event.reason, warning=True) if isinstance(event, train.Fallback) else event
        if (
            isinstance(event, train.Epoch)
            and not warned
            and (warning := collapse(event.record, images.labels[held_out], recipe))
        ):
            warned = True
            yield Note(warning, warning=True)
    raise AssertionError("training ends with Finished")


def _held_out(images: Fitted, recipe: Recipe) -> tuple[Any, Any]:
    """Indices trained on, and those on which progress is shown, and by which an epoch may be chosen."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed)).numpy()
    count = round(len(images) * recipe.held_out)
    return order[count:], order[:count]


def training_key(
    subject: Subject, training: Dataset, recipe: Recipe, settings: Settings, execution: train.Execution
) -> str:
    """The digest of everything that the trained weights depend on."""
    parts = {
        "model": asdict(subject.file.digests),
        "data": training.digest,
        "recipe": recipe.model_dump(mode="json"),
        "execution": [execution.precision, execution.channels_last],
        **metadata_of(settings),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def parts(uri: str, settings: Settings) -> tuple[Dataset, Dataset, str | None]:
    """(trained on, certified on, a sentence where a tenth had to be set aside)."""
    split = has_part(uri, "test")
    if settings.test_data is None and not split:
        rest, held_out = hold_out(load(uri, part=None, download=settings.download), ASIDE, settings.seed)
        count = f"{len(held_out)} of {len(held_out) + len(rest)}"
        note = f"the data has no test part: {count} samples are set aside by seed, never trained on, and certified on"
        return rest, held_out, note
    train_part = load(uri, part="train" if has_part(uri, "train") else None, download=settings.download)
    return train_part, test_part(settings.test_data or uri, settings, None), None
