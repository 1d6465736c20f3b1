"""``pipeline certify``: from a file and a data set to a report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import results as reports
from pipeline.certify import Journal, Work
from pipeline.commands import facts
from pipeline.commands.conclusion import conclude
from pipeline.commands.events import Done, Event, Note
from pipeline.commands.examination import examine
from pipeline.commands.features import Reach, reach_of
from pipeline.commands.promises import measured
from pipeline.commands.run_data import need_data, test_part
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.data import Dataset
from pipeline.distributed.group import Crew, process_group
from pipeline.errors import EnvironmentFailure, UsageError
from pipeline.gates.demands import GATES, demands
from pipeline.numbers import parse_shard
from pipeline.render import render
from pipeline.settings import Settings, settle
from pipeline.system import run_folder
from pipeline.system.allocator import give_back_large_blocks
from pipeline.system.clock import preparing, time_limit
from pipeline.system.run_folder import RunFolder, program
from pipeline.system.user_key import VARIABLE

CLEARED = {
    "another command": "is of another model, data, settings or version",
    "somebody": "carries no authentication code of yours, whoever left it",
}
FOREIGN = "{} files in {} carry no authentication code of yours for this run (another machine's? damaged?)"


def certify(
    model: Path,
    flags: Mapping[str, Any],
    *,
    data: Dataset | None = None,
    report: Path | None = None,
    proof: Path | None = None,
    argv: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Certify a file on a data set, by its URI or in memory; the last event is ``Done``.

    ``flags`` are settings under the names of ``Settings``; what they leave open is settled by ``pipeline.toml``, the file's
    metadata and defaults. ``proof`` is a folder for a proof of each certified sample. Stopped, the run leaves what it decided in
    ``<report>.run``, and the same call goes on from there. Started as several processes they share the samples out, and the first
    one writes. Raises what the exit codes stand for: see ``pipeline.errors``.
    """
    said = flags.get("shard")
    folder = report or run_folder.certification_folder(model, parse_shard(said) if isinstance(said, str) else said)
    run_folder.require_folder(folder)
    run = RunFolder(folder)
    with process_group() as crew, run.lock_for(crew):
        yield from _certify(model, flags, data, run, argv, should_stop, crew, proof)


def _certify(
    model: Path,
    flags: Mapping[str, Any],
    data: Dataset | None,
    run: RunFolder,
    argv: Sequence[str],
    should_stop: Callable[[], bool],
    crew: Crew,
    proof: Path | None,
) -> Iterator[Event]:
    started, began, folder = datetime.now(UTC), time.monotonic(), run.out
    file = opened(model, crew)
    settings, source = settle(model, flags, file.metadata)
    gates = demands(settings, folder)
    if gates.improvement:
        raise UsageError(
            "--require-improvement is a gate of retrain: certify has no given file to compare with; leave it out."
        )
    if settings.memory_budget is not None:
        give_back_large_blocks()
    with time_limit(preparing(settings.time_budget, began)):
        subject = open_model(file, settings)
    for note in subject.imported.notes:
        yield Note(note)
    if data is None:
        uri = settings.test_data or need_data(subject, settings)
        data = crew.each(lambda: test_part(uri, settings, subject.joined), first_alone=settings.download)
    dataset = data
    reach = reach_of(dataset, subject, settings, crew)
    if settings.curve:
        yield Note(f"no eps was given: the curve over {', '.join(map(str, settings.radii))}")
    journal = yield from resumed(run, run_key(subject, dataset, settings, reach), crew)
    work = Work(crew, journal, settings.time_budget, began, should_stop)
    unshared = settings.model_copy(update={"shard": None})
    whole = run_key(subject, dataset, unshared, reach) if settings.shard else None
    evidence = yield from examine(subject, dataset, settings, source, gates, work, run=whole, reach=reach, proof=proof)
    result = conclude(evidence.fields, evidence.samples, gates)
    stopped_by = "time budget" if evidence.incomplete else None
    described = reports.Report.of(
        "certification",
        result,
        facts.run(started, argv, device_of(settings), evidence.timings, stopped_by, evidence.seed),
    )
    if crew.leads:
        reports.write(described, evidence.samples, folder, page=render(described, pictures=evidence.pictures))
        if journal.folder is not None:
            with suppress(EnvironmentFailure):
                run.clear()
    yield Done(described, folder, leads=crew.leads)


def run_key(subject: Subject, dataset: Dataset, settings: Settings, reach: Reach | None = None) -> str:
    """The digest of everything that a verdict depends on; gates, and how long one may look, are not among it."""
    asked = settings.model_dump(
        mode="json", exclude=GATES | {"time_budget", "download", "thumbnails", "retrain", "parity_seed"}
    )
    parts = {
        "model": asdict(subject.file.digests),
        "data": dataset.digest,
        "settings": asked,
        "features": None if reach is None else reach.digest,
        "device": device_of(settings),
        "versions": facts.versions(),
        "program": program(),
        "kernels": measured(subject, settings).assumptions,
        "executed": subject.executed.execution.graph_sha256,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def resumed(run: RunFolder, key: str, crew: Crew) -> Generator[Event, None, Journal]:
    """What the same command decided before it was stopped; what another left is cleared away by the first process."""
    seal = run.seal(key)
    keys = crew.share(None if seal is None else seal.fingerprint)
    if keys[0] is None:
        yield Note(
            f"nothing is kept of a run that is stopped, and nothing in {run.path} is read: {run.user.reason}", True
        )
        return Journal()
    if len(set(keys)) > 1:
        yield Note(f"what some processes decide cannot be gone on from: set the same {VARIABLE} on every machine", True)
    if crew.leads and (told := CLEARED.get(run.begin_anew(key))):
        yield Note(f"{run.path} {told}: it is cleared, and everything is decided afresh")
    crew.share(None)
    journal = Journal(run.path, seal, rank=crew.rank)
    if crew.leads and journal.foreign:
        yield Note(f"{FOREIGN.format(len(journal.foreign), run.path)}: they are removed, and decided afresh", True)
    if len(journal):
        yield Note(f"going on from {run.path}, where {len(journal)} batches are decided")
    # Nobody may write before everybody has read.
    crew.share(None)
    for part in journal.foreign if crew.leads else ():
        part.unlink(missing_ok=True)
    return journal
