"""The training of a run: its data on the device, a part held out, a checkpoint to go on from; and what a report says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import results as reports
from pipeline import train
from pipeline.commands import facts
from pipeline.commands.events import Note
from pipeline.commands.examination import Evidence
from pipeline.commands.run_data import test_part
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.core.network import Network
from pipeline.data import Augment, Dataset, Fitted, Loader, has_part, hold_out, load
from pipeline.distributed.group import ProcessGroup
from pipeline.errors import InputRejected
from pipeline.results.chance import guessing, near_chance
from pipeline.settings import Settings, metadata_of
from pipeline.system.run_folder import RunFolder, WrittenModel
from pipeline.system.seal import Seal
from pipeline.train import Recipe
from pipeline.train.tournament import Entry

ASIDE = 0.1
"""The share of a data set without a test part that is set aside for certification, never trained on."""


def announced(subject: Subject, recipe: Recipe, settings: Settings) -> list[str]:
    """What training is about to do to the model, said before it starts and kept in the report."""
    told = [f"recipe {recipe.name}: {recipe.epochs} epochs, batch {recipe.batch_size}, seed {recipe.seed}"]
    if settings.budget is not None:
        told.append(
            f"the number of epochs was chosen for {settings.budget:.0f} s of training on the machine that began it"
        )
    if recipe.init == "reinit":
        told.append("weights are drawn anew, as the paper does; --init keep starts from the given ones")
    if recipe.teacher != "none":
        teacher = "the network as given" if recipe.teacher == train.GIVEN else f"the file of {recipe.teacher}"
        told.append(f"attacked samples are to get the classes that a teacher gives them unperturbed: {teacher}")
    if recipe.keep_sparsity:
        zeros = train.masks(subject.network)
        count = sum(int((mask == 0).sum()) for mask in zeros.values())
        told.append(f"{count} weights in {len(zeros)} layers are exactly zero, and stay so")
    if recipe.full_bn:
        placed = train.placements(subject.network, keep=recipe.bn == "keep")
        count = sum(p.status == "inserted" for p in placed)
        how = "folded into their layers in the end" if recipe.bn == "fold" else "kept as nodes"
        told.append(
            f"{count} BatchNorms are inserted, {how}; {sum(p.status == 'covered' for p in placed)} are there already"
        )
        told += [
            f"no BatchNorm after {subject.network.origin(p.node)}: {p.reason}" for p in placed if p.status == "left"
        ]
    return told


def recipe_of(
    subject: Subject, images: Fitted, settings: Settings, entry: Entry, but: Sequence[str] = (), **changes: Any
) -> Recipe:
    """The recipe of an entry with the settings that the user said, but some, and with changes to them. Raises UsageError."""
    asked = {"seed": settings.seed, **settings.retrain, **entry.changes}
    if entry.rate:
        asked["learning_rate"] = float(entry.rate)
    asked = {name: value for name, value in asked.items() if name not in ("recipe", *but)} | changes
    return train.recipe(entry.name, input_shape=subject.sample_shape, n_train=len(images), **asked)


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


def delivered(finished: WrittenModel, recipe: Recipe) -> str:
    """Which weights the file holds, in words."""
    if recipe.select == "final":
        return "the weights are those of the final epoch; nothing was selected"
    held = next(r["held_certified"] for r in finished.curves if r["epoch"] == finished.epoch)
    return (
        f"the weights are those of epoch {finished.epoch} of {recipe.epochs}, which certifies most of the held-out part of the "
        f"training data ({100 * held:.2f} %)"
    )


def left_in_file(subject: Subject, recipe: Recipe, settings: Settings, aside: str | None) -> dict[str, str]:
    """What the written file's metadata say of how it came about."""
    left = metadata_of(settings)
    if aside:
        # Certifying on the whole of it later would mostly count samples that were trained on.
        left.pop("pipeline.data", None)
    return left | {
        "pipeline.version": facts.tool().version,
        "pipeline.parent_sha256": subject.file.digests.sha256,
        "pipeline.recipe": json.dumps(recipe.model_dump(mode="json"), sort_keys=True),
    }


def compared(
    before: Evidence, after: Evidence, settings: Settings
) -> tuple[tuple[reports.Accuracies, reports.Accuracies], list[str]]:
    """Before and after at the eps that was trained for, and a plain sentence for each way in which the new file is worse."""
    old, new = before.fields["levels"][-1], after.fields["levels"][-1]
    sides = tuple(
        reports.Accuracies(
            eps=x.eps, natural=x.natural, attacked=x.attacked, certified=x.certified, undecided=x.undecided
        )
        for x in (old, new)
    )
    worse = []
    for name in ("attacked", "certified"):
        was, now = getattr(old, name), getattr(new, name)
        if was is not None and now is not None and now.k * was.n < was.k * now.n:
            once = f"{was.k} of {was.n}" if was.n != now.n else f"{was.k}"
            worse.append(
                f"the new file's {name} accuracy at eps {new.eps} is lower than the given one's: {now.k} of {now.n}, was {once}"
            )
    if new.certified.k == 0:
        worse.append(f"nothing is certified at eps {new.eps} after training: train longer, or at a smaller eps")
    return (sides[0], sides[1]), worse


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
    assert settings.eps is not None
    low, high = images.value_range
    watched = aside if len(held) else None
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
    kept = group.on_first(lambda: run.begin(key))
    _, held = _held_out(images, recipe)
    events = train.train(
        task,
        device=device,
        # The first process alone reads and writes it, so that the others need no key.
        checkpoint=train.Checkpoint(run.checkpoint, run.seal() or Seal(b"")) if kept else None,
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
            and (said := collapse(event.record, images.labels[held], recipe))
        ):
            warned = True
            yield Note(said, warning=True)
    raise AssertionError("training ends with Finished")


def collapse(record: Mapping[str, float | int], labels: np.ndarray, recipe: Recipe) -> str | None:
    """A warning after an epoch behind the start of the ramp in which the held-out part is classified by guessing at best."""
    if "held_natural" not in record or record["epoch"] <= recipe.warmup_start:
        return None
    counts = np.unique(labels, return_counts=True)[1].tolist()
    n, attained = len(labels), record["held_natural"]
    if not near_chance(round(attained * n), n, guessing(len(counts), counts)):
        return None
    return (
        f"after epoch {record['epoch']} of {recipe.epochs} the network is right on {100 * attained:.1f} % of the held-out part, "
        "no better than guessing; it seldom recovers. Stop it (a checkpoint is kept), and train with a lower --learning-rate, a "
        "longer --warmup-length or --precision fp32, or at a smaller eps."
    )


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


def curves(history: Sequence[Mapping[str, float | int]]) -> tuple[dict[str, float | int | str | None], ...]:
    """Epochs as a result keeps them: ``natural`` and ``certified`` are accuracies, held out where samples were held out.

    How long they took is no part of a result: see ``epoch_times``.
    """
    told: list[dict[str, float | int | str | None]] = []
    for record in history:
        row: dict[str, float | int | str | None] = {name: v for name, v in record.items() if name != "seconds"}
        row["natural_loss"], row["robust_loss"] = row.pop("natural", None), row.pop("robust", None)
        for name in ("natural", "certified"):
            row[name] = record.get(f"held_{name}", record.get(f"train_{name}"))
        told.append(row)
    return tuple(told)


def epoch_times(history: Sequence[Mapping[str, float | int]]) -> dict[str, float]:
    """The seconds of each epoch."""
    return {f"epoch {record['epoch']}": record["seconds"] for record in history}


def parts(uri: str, settings: Settings) -> tuple[Dataset, Dataset, str | None]:
    """(trained on, certified on, a sentence where a tenth had to be set aside)."""
    split = has_part(uri, "test")
    if settings.test_data is None and not split:
        rest, held = hold_out(load(uri, part=None, download=settings.download), ASIDE, settings.seed)
        count = f"{len(held)} of {len(held) + len(rest)}"
        told = f"the data has no test part: {count} samples are set aside by seed, never trained on, and certified on"
        return rest, held, told
    train_part = load(uri, part="train" if has_part(uri, "train") else None, download=settings.download)
    return train_part, test_part(settings.test_data or uri, settings, None), None
