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
from pipeline.commands.features import NamedRadii, radii_of
from pipeline.commands.guarantee import kernels_of
from pipeline.commands.run_data import need_data, test_part
from pipeline.commands.subject import Subject, device_of, open_model, opened
from pipeline.data import Dataset
from pipeline.distributed.group import ProcessGroup, process_group
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
    "another command": "belongs to another model, other data, settings or another version",
    "somebody": "carries no authentication code of yours",
}
"""By what ``RunFolder.begin_anew`` found in the folder of a run, why it is cleared."""
UNAUTHENTICATED = (
    "{} files in {} carry no authentication code of yours for this run (another machine's? damaged?): they are removed and "
    "computed again"
)


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

    ``flags`` are settings under the names of ``Settings``; others come from ``pipeline.toml``, the file's metadata and defaults,
    in this order. ``proof`` is a folder for a proof of each certified sample. A run that is stopped keeps its results in
    ``<report>.run``, and the same call resumes from there. Several processes divide the samples among them, and the first one
    writes the report. Raises the errors that exit codes stand for: see ``pipeline.errors``.
    """
    shard = flags.get("shard")
    folder = report or run_folder.certification_folder(model, parse_shard(shard) if isinstance(shard, str) else shard)
    run_folder.require_folder(folder)
    run = RunFolder(folder)
    with process_group() as group, run.lock_for(group):
        yield from _certify(model, flags, data, run, argv, should_stop, group, proof)


def _certify(
    model: Path,
    flags: Mapping[str, Any],
    data: Dataset | None,
    run: RunFolder,
    argv: Sequence[str],
    should_stop: Callable[[], bool],
    group: ProcessGroup,
    proof: Path | None,
) -> Iterator[Event]:
    started, began, folder = datetime.now(UTC), time.monotonic(), run.out
    file = opened(model, group)
    settings, source = settle(model, flags, file.metadata)
    gates = demands(settings, folder)
    if gates.improvement:
        raise UsageError(
            "--require-improvement is a gate of retrain: certify has no earlier file to compare with. Leave it out."
        )
    if settings.memory_budget is not None:
        give_back_large_blocks()
    with time_limit(preparing(settings.time_budget, began)):
        subject = open_model(file, settings)
    for note in subject.imported.notes:
        yield Note(note)
    if data is None:
        uri = settings.test_data or need_data(subject, settings)
        data = group.on_each(lambda: test_part(uri, settings, subject.joined), first_alone=settings.download)
    radii = radii_of(data, subject, settings, group)
    if settings.curve:
        why = "no eps was given: " if settings.eps is None else ""
        yield Note(f"{why}the curve over {', '.join(map(str, settings.radii))}")
    journal = yield from open_journal(run, run_key(subject, data, settings, radii), group)
    work = Work(group, journal, settings.time_budget, began, should_stop)
    unsharded = settings.model_copy(update={"shard": None})
    whole = run_key(subject, data, unsharded, radii) if settings.shard else None
    evidence = yield from examine(
        subject, data, settings, source, gates, work, run_sha256=whole, radii=radii, proof=proof
    )
    result = conclude(evidence.fields, evidence.samples, gates)
    stopped_by = "time budget" if evidence.incomplete else None
    described = reports.Report.of(
        "certification",
        result,
        facts.run(started, argv, device_of(settings), evidence.timings, stopped_by, evidence.seed),
    )
    if group.is_first:
        reports.write(described, evidence.samples, folder, page=render(described, pictures=evidence.pictures))
        if journal.folder is not None:
            with suppress(EnvironmentFailure):
                run.clear()
    yield Done(described, folder, is_first=group.is_first)


def run_key(subject: Subject, dataset: Dataset, settings: Settings, radii: NamedRadii | None = None) -> str:
    """The SHA-256 of everything that a verdict depends on, which gates and the time budget do not belong to."""
    relevant = settings.model_dump(
        mode="json", exclude=GATES | {"time_budget", "download", "thumbnails", "retrain", "parity_seed"}
    )
    parts = {
        "model": asdict(subject.file.digests),
        "data": dataset.digest,
        "settings": relevant,
        "features": None if radii is None else radii.digest,
        "device": device_of(settings),
        "versions": facts.versions(),
        "program": program(),
        "kernels": kernels_of(subject, settings).assumptions,
        "executed": subject.executed.execution.graph_sha256,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def open_journal(run: RunFolder, key: str, group: ProcessGroup) -> Generator[Event, None, Journal]:
    """The journal of the run with this key, which holds its earlier results; the first process clears that of another run."""
    seal = run.seal(key)
    keys = group.all_gather(None if seal is None else seal.fingerprint)
    if keys[0] is None:
        yield Note(
            f"nothing is kept of a run that is stopped, and nothing in {run.path} is read: {run.user.reason}", True
        )
        return Journal()
    if len(set(keys)) > 1:
        yield Note(
            f"the results of some processes cannot be resumed from: set the same {VARIABLE} on every machine", True
        )
    if group.is_first and (why := CLEARED.get(run.begin_anew(key))):
        yield Note(f"{run.path} {why}: it is cleared, and the run starts from the beginning")
    group.all_gather(None)
    journal = Journal(run.path, seal, rank=group.rank)
    if group.is_first and journal.foreign:
        yield Note(UNAUTHENTICATED.format(len(journal.foreign), run.path), True)
    if len(journal):
        yield Note(f"resuming from {run.path}, which holds the results of {len(journal)} batches")
    # No process may write before all have read.
    group.all_gather(None)
    for part in journal.foreign if group.is_first else ():
        part.unlink(missing_ok=True)
    return journal
