"""``pipeline retrain``: train the network of a file, write the weights back into the same graph, certify what was written."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import results as reports
from pipeline import train
from pipeline.certify import Work
from pipeline.commands import facts, training
from pipeline.commands.budget import within_budget
from pipeline.commands.choices import Choices
from pipeline.commands.comparing import RecipeComparison, compare, require_comparable
from pipeline.commands.conclusion import conclude
from pipeline.commands.events import Done, Event, Note
from pipeline.commands.examination import Evidence, examine
from pipeline.commands.run_data import need_data, to_inputs
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.commands.training import trained_network, training_key
from pipeline.core.binary import without_threshold
from pipeline.core.preprocess import without_normalisation
from pipeline.distributed.group import ProcessGroup, process_group
from pipeline.errors import EnvironmentFailure, InputRejected, UsageError
from pipeline.gates.demands import demands
from pipeline.methods import IBP
from pipeline.onnx import model_file
from pipeline.onnx.model_file import ModelFile
from pipeline.onnx.write_back import write_back
from pipeline.render import render
from pipeline.settings import Settings, settle
from pipeline.system import run_folder
from pipeline.system.atomic import replace_atomically, require_replaceable
from pipeline.system.run_folder import RunFolder, WrittenModel
from pipeline.train import Recipe
from pipeline.train.tournament import Entry


def retrain(
    model: Path,
    flags: Mapping[str, Any],
    *,
    out: Path | None = None,
    force: bool = False,
    report: Path | None = None,
    argv: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    verbose: bool = False,
) -> Iterator[Event]:
    """Retrain a file to be certifiable at the largest ``eps`` given, and certify the file written; the last event is ``Done``.

    Training goes on from the checkpoint in ``<out>.run`` where the same command left one, and is skipped where the same
    command has finished. A time budget ends training, not certification: it leaves a checkpoint and raises Preempted.
    Started as several processes they train and certify together, and the first one writes. ``verbose``: every setting is told.
    Raises what the exit codes stand for: see ``pipeline.errors``.
    """
    run = RunFolder(out or run_folder.retrained_file(model))
    run_folder.require_folder(report or run_folder.retraining_folder(run.out))
    with process_group() as group:
        group.on_first(lambda: _check_target(model, run, force))
        with run.lock_for(group):
            yield from _retrain(model, flags, run, force, report, argv, should_stop, group, verbose)


def _retrain(
    model: Path,
    flags: Mapping[str, Any],
    run: RunFolder,
    force: bool,
    report: Path | None,
    argv: Sequence[str],
    should_stop: Callable[[], bool],
    group: ProcessGroup,
    verbose: bool,
) -> Iterator[Event]:
    started, began = datetime.now(UTC), time.monotonic()
    file = opened(model, group)
    settings, source = _settled(file, flags)
    deadline = began + (float("inf") if settings.time_budget is None else settings.time_budget)
    settings = settings.model_copy(update={"time_budget": None})

    def stop() -> bool:
        return time.monotonic() >= deadline or should_stop()

    if "method" not in source:
        # What training minimises, and fast on the given file too, of which nothing may be provable; `certify` proves more.
        settings = settings.model_copy(update={"method": IBP})
    out = run.out
    folder = report or run_folder.retraining_folder(out)
    gates = demands(settings, folder)
    subject = open_model(file, settings)
    if subject.joined is not None:
        raise InputRejected(f"retrain takes models with one input; this file has {len(subject.joined.ports)}.")
    uri = need_data(subject, settings)
    train_part, testing, aside = group.on_each(lambda: training.parts(uri, settings), first_alone=settings.download)
    if aside:
        yield Note(aside)
    images = to_inputs(train_part, subject, settings)
    entry = Entry(settings.retrain.get("recipe", train.DEFAULT))
    compared: tuple[str, ...] = ()
    choices = None if settings.budget is None and settings.compare is None else Choices(run, group, force)
    if choices is not None and settings.compare is not None:
        comparison = RecipeComparison(subject, images, train_part, settings, group, choices, stop)
        entry, compared = yield from compare(comparison, settings.compare.split(","))
    made = partial(training.recipe_of, subject, images, settings, entry)
    recipe, teacher = training.with_teacher(subject, made(), settings, group)
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    execution = train.Execution.of(
        device_of(settings), settings.precision, settings.compile, settings.graph, steps=steps
    )
    key = training_key(subject, train_part, recipe, settings, execution)
    if choices is not None and settings.budget is not None:
        recipe = yield from within_budget(
            settings,
            recipe,
            lambda epochs: made(epochs=epochs, teacher=recipe.teacher),
            key,
            lambda whole: training.task_of(subject, images, whole, settings, teacher),
            choices,
            execution.try_compiling(device_of(settings), whole=recipe.one_graph),
            group,
        )
        key = training_key(subject, train_part, recipe, settings, execution)
    finished, begun = group.on_first(lambda: _left(run, key, force))
    if choices is not None:
        choices.keep()
    if why := group.on_first(lambda: run.user.reason):
        yield Note(f"no checkpoint is kept, and a run that is stopped starts anew: {why}", warning=True)
    every = train.describe(recipe) if verbose else ["`pipeline --verbose retrain` shows every setting of the recipe"]
    for note in (*subject.imported.notes, *training.announced(subject, recipe, settings), *every):
        yield Note(note)

    def given() -> Generator[Event, None, Evidence]:
        yield Note("certifying the given file, to compare with")
        fewer = settings.before_samples
        if fewer is None or (settings.max_samples or fewer) < fewer:
            return (yield from examine(subject, testing, settings, source, gates, Work(group)))
        some = settings.model_copy(update={"max_samples": fewer})
        # Gates are about the new file, and a baseline about its samples.
        return (yield from examine(subject, testing, some, source, work=Work(group)))

    # First, since what cannot be certified need not be trained; a run cut into slices need not know it in each of them.
    before = None if begun else (yield from given())
    if finished is None:
        execution = execution.try_compiling(device_of(settings), whole=recipe.one_graph)
        yield Note(execution.describe())
        trained = yield from trained_network(
            subject, images, recipe, settings, run, key, stop, execution, group, teacher
        )
        told = training.left_in_file(subject, recipe, settings, aside)
        finished = group.on_first(lambda: _written(subject, run, key, trained, told))
    else:
        yield Note(
            f"{out.name} is what this command wrote when it finished: nothing is trained, and it is certified again"
        )

    before = before or (yield from given())
    delivered = open_model(opened(out, group, finished.written_sha256), settings)
    yield Note(f"certifying {out.name}")
    after = yield from examine(delivered, testing, settings, source, gates, Work(group))
    sides, warnings = training.compared(before, after, settings)
    for warning in warnings:
        yield Note(warning, warning=True)
    worse = (reports.Caution(code="worse", message=w) for w in warnings)
    after.fields["warnings"] = (*worse, *after.fields["warnings"])
    training_facts = reports.Training(
        recipe=recipe.model_dump(mode="json"),
        curves=training.curves(finished.curves),
        before=sides[0],
        after=sides[1],
        parent_sha256=before.fields["model"].sha256,
        notes=(
            *training.announced(subject, recipe, settings),
            *compared,
            execution.describe_products(),
            training.delivered(finished, recipe),
            *finished.changes,
        ),
    )
    result = conclude(after.fields, after.samples, gates, training_facts)
    settled = argv if "--out" in argv else (*argv, "--out", str(out))
    described = reports.Report.of(
        "retraining",
        result,
        facts.run(
            started,
            settled,
            device_of(settings),
            training.epoch_times(finished.curves) | after.timings,
            "time budget" if after.incomplete else None,
            after.seed,
        ),
    )
    if group.is_first:
        reports.write(described, after.samples, folder, page=render(described, pictures=after.pictures))
    yield Done(described, folder, out, finished.changes, group.is_first)


def write_config(model: Path, flags: Mapping[str, Any], path: Path, *, force: bool = False) -> Recipe:
    """Write every setting of the recipe that ``retrain`` would follow to ``path``, to be read back as ``pipeline.toml``.

    Raises UsageError where the file exists, unless ``force``, and EnvironmentFailure where it cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(f"{path} exists; name another file, or overwrite it with --force.")
    require_replaceable(path)
    file = opened(model)
    settings, _ = _settled(file, flags)
    if settings.budget is not None or settings.compare is not None:
        raise UsageError(
            "--write-config trains nothing, which --budget and --compare choose by; leave the one or the other out."
        )
    subject = open_model(file, settings)
    train_part = training.parts(need_data(subject, settings), settings)[0]
    entry = Entry(settings.retrain.get("recipe", train.DEFAULT))
    recipe = training.recipe_of(subject, to_inputs(train_part, subject, settings), settings, entry)
    try:
        replace_atomically(path, train.as_toml(recipe).encode())
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be written: {error.strerror or error}.") from None
    return recipe


def _settled(file: ModelFile, flags: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings, and who said each. Raises UsageError where training cannot mean them."""
    settings, source = settle(file.path, flags, file.metadata)
    if settings.eps is None:
        raise UsageError(
            "--eps is missing, and neither pipeline.toml nor the file says it: which radius, such as --eps 8/255?"
        )
    if settings.require_improvement and settings.before_samples is not None:
        raise UsageError(
            "--require-improvement compares both files on the same samples, and --before-samples takes fewer of them for the "
            "given one; leave one of the two out."
        )
    if settings.compare is not None:
        require_comparable(settings)
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


def _check_target(model: Path, run: RunFolder, force: bool) -> None:
    """Before any work: the file may be written where it was asked for. Raises UsageError."""
    out = run.out
    if os.path.realpath(out) == os.path.realpath(model):
        raise UsageError(f"--out is the file that is retrained, {model}; name another.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out} lies in a folder that does not exist; make {out.parent} first.")
    require_replaceable(out)
    if out.exists() and not force and not run.path.is_dir():
        raise UsageError(f"{out} exists; name another --out, or overwrite it with --force.")


def _left(run: RunFolder, key: str, force: bool) -> tuple[WrittenModel | None, bool]:
    """What the same command left when it finished, and whether it left a checkpoint; what others left makes way by force.

    Raises UsageError where the file is another's, or the folder holds what is not authenticated as this user's.
    """
    if not force:
        run.require_own()
    elif run.unauthenticated():
        run.clear()
    finished = run.load_record(key)
    if finished is not None and model_file.read(run.out).digests.sha256 != finished.written_sha256:
        finished = None
    if run.out.exists() and finished is None and not force and not run.belongs_to(key):
        raise UsageError(
            f"{run.out} exists and this command did not finish it; name another --out, or overwrite it with --force."
        )
    begun = run.belongs_to(key)
    if force and finished is None and not begun:
        run.clear()
    return finished, begun and run.checkpoint.exists()


def _written(
    subject: Subject, run: RunFolder, key: str, trained: train.Finished, left: Mapping[str, str]
) -> WrittenModel:
    """Write the trained weights into the file, and down what was done."""
    network = without_threshold(without_normalisation(trained.network), subject.imported.network)
    written = write_back(subject.file, network, run.out, metadata=left)
    curves = tuple(map(dict, trained.history))
    finished = WrittenModel(key, written.file.digests.sha256, written.changes, curves, trained.epoch)
    run.save_record(finished)
    return finished
