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
from pipeline.commands.comparing import RecipeComparison, compare
from pipeline.commands.conclusion import conclude
from pipeline.commands.events import Done, Event, Note
from pipeline.commands.examination import Evidence, examine
from pipeline.commands.retrain_settings import recipe_of, retrain_settings
from pipeline.commands.run_data import need_data, to_inputs
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.commands.training import trained_network, training_key
from pipeline.commands.training_report import announcement, comparison, epoch_times, file_metadata, training_section
from pipeline.core.binary import without_threshold
from pipeline.core.preprocess import without_normalisation
from pipeline.distributed.group import ProcessGroup, process_group
from pipeline.errors import InputRejected, UsageError
from pipeline.gates.demands import demands
from pipeline.methods import IBP
from pipeline.onnx import model_file
from pipeline.onnx.write_back import write_back
from pipeline.render import render
from pipeline.system import run_folder
from pipeline.system.atomic import require_replaceable
from pipeline.system.run_folder import RunFolder, WrittenModel
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
    Started as several processes they train and certify together, and the first one writes. ``verbose`` notes every setting.
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
    settings, source = retrain_settings(file, flags)
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
    comparison_lines: tuple[str, ...] = ()
    choices = None if settings.budget is None and settings.compare is None else Choices(run, group, force)
    if choices is not None and settings.compare is not None:
        recipes = RecipeComparison(subject, images, train_part, settings, group, choices, stop)
        entry, comparison_lines = yield from compare(recipes, settings.compare.split(","))
    recipe_with = partial(recipe_of, subject, images, settings, entry)
    recipe, teacher = training.with_teacher(subject, recipe_with(), settings, group)
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    execution = train.Execution.of(
        device_of(settings), settings.precision, settings.compile, settings.graph, steps=steps
    )
    key = training_key(subject, train_part, recipe, settings, execution)
    if choices is not None and settings.budget is not None:
        recipe = yield from within_budget(
            settings,
            recipe,
            lambda epochs: recipe_with(epochs=epochs, teacher=recipe.teacher),
            key,
            lambda whole: training.task_of(subject, images, whole, settings, teacher),
            choices,
            execution.try_compiling(device_of(settings), whole=recipe.one_graph),
            group,
        )
        key = training_key(subject, train_part, recipe, settings, execution)
    finished, unfinished = group.on_first(lambda: _earlier_run(run, key, force))
    if choices is not None:
        choices.keep()
    if why := group.on_first(lambda: run.user.reason):
        yield Note(f"no checkpoint is kept, and a run that is stopped starts anew: {why}", warning=True)
    every = train.describe(recipe) if verbose else ["`pipeline --verbose retrain` shows every setting of the recipe"]
    for note in (*subject.imported.notes, *announcement(subject, recipe, settings), *every):
        yield Note(note)

    def examine_given() -> Generator[Event, None, Evidence]:
        yield Note("certifying the given file, to compare with")
        fewer = settings.before_samples
        if fewer is None or (settings.max_samples or fewer) < fewer:
            return (yield from examine(subject, testing, settings, source, gates, Work(group)))
        some = settings.model_copy(update={"max_samples": fewer})
        # Gates are about the new file, and a baseline about its samples.
        return (yield from examine(subject, testing, some, source, work=Work(group)))

    # First, since what cannot be certified need not be trained; a run cut into slices need not know it in each of them.
    before = None if unfinished else (yield from examine_given())
    if finished is None:
        execution = execution.try_compiling(device_of(settings), whole=recipe.one_graph)
        yield Note(execution.describe())
        trained = yield from trained_network(
            subject, images, recipe, settings, run, key, stop, execution, group, teacher
        )
        metadata = file_metadata(subject, recipe, settings, aside)
        finished = group.on_first(lambda: _write_model(subject, run, key, trained, metadata))
    else:
        yield Note(
            f"{out.name} is what this command wrote when it finished: nothing is trained, and it is certified again"
        )

    before = before or (yield from examine_given())
    delivered = open_model(opened(out, group, finished.written_sha256), settings)
    yield Note(f"certifying {out.name}")
    after = yield from examine(delivered, testing, settings, source, gates, Work(group))
    sides, warnings = comparison(before, after)
    for warning in warnings:
        yield Note(warning, warning=True)
    worse = (reports.Caution(code="worse", message=w) for w in warnings)
    after.fields["warnings"] = (*worse, *after.fields["warnings"])
    section = training_section(subject, recipe, settings, execution, finished, sides, comparison_lines)
    result = conclude(after.fields, after.samples, gates, section)
    command_line = argv if "--out" in argv else (*argv, "--out", str(out))
    described = reports.Report.of(
        "retraining",
        result,
        facts.run(
            started,
            command_line,
            device_of(settings),
            epoch_times(finished.curves) | after.timings,
            "time budget" if after.incomplete else None,
            after.seed,
        ),
    )
    if group.is_first:
        reports.write(described, after.samples, folder, page=render(described, pictures=after.pictures))
    yield Done(described, folder, out, finished.changes, group.is_first)


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


def _earlier_run(run: RunFolder, key: str, force: bool) -> tuple[WrittenModel | None, bool]:
    """What the same command wrote when it finished, and whether there is a checkpoint of it; ``force`` removes what others wrote.

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
    unfinished = run.belongs_to(key)
    if force and finished is None and not unfinished:
        run.clear()
    return finished, unfinished and run.checkpoint.exists()


def _write_model(
    subject: Subject, run: RunFolder, key: str, trained: train.Finished, metadata: Mapping[str, str]
) -> WrittenModel:
    """Write the trained weights into the file, and a record of it into the folder of the run."""
    network = without_threshold(without_normalisation(trained.network), subject.imported.network)
    output = write_back(subject.file, network, run.out, metadata=metadata)
    curves = tuple(map(dict, trained.history))
    record = WrittenModel(key, output.file.digests.sha256, output.changes, curves, trained.epoch)
    run.save_record(record)
    return record
