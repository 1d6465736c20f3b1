"""The settings of ``retrain``, the recipe that follows from them, and the file that holds all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import train
from pipeline.commands.run_data import need_data, to_inputs
from pipeline.commands.subject import Subject, open_model, opened
from pipeline.commands.training import parts
from pipeline.data import Fitted
from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.onnx.model_file import ModelFile
from pipeline.settings import Settings, settle
from pipeline.system.atomic import replace_atomically, require_replaceable
from pipeline.train import Recipe
from pipeline.train.tournament import Entry


def retrain_settings(file: ModelFile, flags: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings, and the source of each. Raises UsageError (2) where they make no sense for training."""
    settings, source = settle(file.path, flags, file.metadata)
    if not settings.eps:
        raise UsageError(
            "--eps is missing, and neither pipeline.toml nor the file says it: which radius, such as --eps 8/255?"
        )
    if settings.require_improvement and settings.before_samples is not None:
        raise UsageError(
            "--require-improvement compares both files on the same samples, and --before-samples takes fewer of them for the "
            "given one; leave one of the two out."
        )
    if settings.compare is not None:
        _require_comparable(settings)
    if settings.budget is not None and "epochs" in settings.retrain:
        raise UsageError("--budget chooses the number of epochs, and --epochs says it; leave one of the two out.")
    if settings.by_feature:
        raise UsageError(
            "retrain knows one radius for all entries of a sample: leave --scale, --radius, --fixed and [features] to certify."
        )
    if settings.shard is not None:
        raise UsageError("retrain certifies all samples of the file that it wrote; say --shard to certify.")
    if settings.norm != "linf":
        raise UsageError(f"retrain trains against boxes, norm linf; {source['norm']} says norm {settings.norm!r}.")
    return settings, source


def write_config(model: Path, flags: Mapping[str, Any], path: Path, *, force: bool = False) -> Recipe:
    """Write every setting of the recipe that ``retrain`` would follow to ``path``, to be read back as ``pipeline.toml``.

    Raises UsageError where the file exists, unless ``force``, and EnvironmentFailure where it cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists; name another file, or overwrite it with --force.")
    require_replaceable(path)
    file = opened(model)
    settings, _ = retrain_settings(file, flags)
    if settings.budget is not None or settings.compare is not None:
        raise UsageError(
            "--write-config trains nothing, which --budget and --compare choose by; leave the one or the other out."
        )
    subject = open_model(file, settings)
    train_part = parts(need_data(subject, settings), settings)[0]
    entry = Entry(settings.retrain.get("recipe", train.DEFAULT))
    recipe = recipe_of(subject, to_inputs(train_part, subject, settings), settings, entry)
    try:
        replace_atomically(path, train.as_toml(recipe).encode())
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error.strerror or error}.") from None
    return recipe


def recipe_of(
    subject: Subject, images: Fitted, settings: Settings, entry: Entry, but: Sequence[str] = (), **changes: Any
) -> Recipe:
    """The recipe of an entry with the settings of the user, except those named in ``but``, and with ``changes`` to them.

    Raises UsageError (2) where two settings contradict each other.
    """
    fields = {"seed": settings.seed, **settings.retrain, **entry.changes}
    if entry.rate:
        fields["learning_rate"] = float(entry.rate)
    fields = {name: value for name, value in fields.items() if name not in ("recipe", *but)} | changes
    return train.recipe(entry.name, input_shape=subject.sample_shape, n_train=len(images), **fields)


def _require_comparable(settings: Settings) -> None:
    """Raise UsageError (2) where --compare names no two recipes, or has nothing to decide by."""
    names = (settings.compare or "").split(",")
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UsageError(
            f"--compare names two recipes or more, each once, such as shi2021,fast; received {settings.compare!r:.60}."
        )
    if "recipe" in settings.retrain:
        raise UsageError("--compare chooses the recipe, and --recipe says it; leave one of the two out.")
    if settings.retrain.get("held_out") == 0:
        raise UsageError("--compare decides on the held-out part of the training data; leave some, by --held-out.")
