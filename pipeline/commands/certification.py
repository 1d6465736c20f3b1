"""``pipeline certify``: from a file and a data set to a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import certify as verdicts
from pipeline import results as reports
from pipeline.certify import PGD, Work
from pipeline.commands import deployed, facts, runs
from pipeline.commands.events import Done, Event, Note
from pipeline.commands.gates import demands, left_to_the_model
from pipeline.commands.guarantee import Kernels, measured, refuse_unpromised
from pipeline.commands.resumption import resumed, run_key
from pipeline.commands.runs import RunFolder
from pipeline.commands.subject import Subject, chosen, device_of, need_data, open_model, opened, test_part, to_inputs
from pipeline.core.threat import BALLS
from pipeline.data import Dataset, Fitted
from pipeline.distributed.group import Crew, gathered
from pipeline.errors import EnvironmentFailure
from pipeline.gates import Demands, Setup
from pipeline.gates import verdict as decided
from pipeline.render import Pictures, render, thumbnails
from pipeline.settings import Settings, settle
from pipeline.system.clock import limited, preparing

NONE = Demands()
BLIND = (
    "the attack saw no gradient on {} samples that survived it: something inside the network saturates or is a step, and the "
    "attacked accuracy may be too high"
)
SOFTMAX = "the file ends in a Softmax, which keeps the order of its inputs: margins are taken of those"


@dataclass(frozen=True, eq=False)
class Evidence:
    """One certification, and everything that a result says of it."""

    samples: reports.Samples
    fields: dict[str, Any]
    """Of ``Result``, all but gates, verdict and training."""
    seconds: float
    timings: dict[str, float]
    """Seconds of each rung, by its name and eps."""
    cut: bool
    """Whether a budget left samples undecided."""
    seed: int
    """Of the points at which import, runtime and certificates were compared."""
    pictures: Pictures = field(default_factory=dict)
    """Of samples, for the page: a report holds no pixel."""


def certify(
    model: Path,
    flags: Mapping[str, Any],
    *,
    report: Path | None = None,
    argv: Sequence[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Certify a file on a data set; the last event is ``Done``.

    ``flags`` are settings under the names of ``Settings``; what they leave open is settled by ``pipeline.toml``, the file's
    metadata and defaults. Stopped, the run leaves what it decided in ``<report>.run``, and the same call goes on from there.
    Started as several processes they share the samples out, and the first one writes. Raises what the exit codes stand for: see
    ``pipeline.errors``.
    """
    folder = report or runs.of_certification(model)
    runs.require_folder(folder)
    run = RunFolder(folder)
    with gathered() as crew, run.held_by(crew):
        yield from _certify(model, flags, run, argv, should_stop, crew)


def _certify(
    model: Path,
    flags: Mapping[str, Any],
    run: RunFolder,
    argv: Sequence[str],
    should_stop: Callable[[], bool],
    crew: Crew,
) -> Iterator[Event]:
    started, began, folder = datetime.now(UTC), time.monotonic(), run.out
    file = opened(model, crew)
    settings, source = settle(model, flags, file.metadata)
    gates = demands(settings, folder)
    with limited(preparing(settings.time_budget, began)):
        subject = open_model(file, settings)
    for note in subject.imported.notes:
        yield Note(note)
    uri = settings.test_data or need_data(subject, settings)
    dataset = crew.each(lambda: test_part(uri, settings), first_alone=settings.download)
    if settings.eps is None:
        yield Note(f"no eps was given: the curve over {', '.join(map(str, settings.radii))}")
    journal = yield from resumed(run, run_key(subject, dataset, settings), crew)
    work = Work(crew, journal, settings.time_budget, began, should_stop)
    evidence = yield from examine(subject, dataset, settings, source, gates, work)
    result = conclude(evidence, gates)
    stopped_by = "time budget" if evidence.cut else None
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


def examine(
    subject: Subject,
    dataset: Dataset,
    settings: Settings,
    source: dict[str, str],
    gates: Demands = NONE,
    work: Work | None = None,
) -> Generator[Event, None, Evidence]:
    """Certify an opened file on one part of a data set."""
    work = work or Work(budget=settings.time_budget)
    kernels = measured(subject, settings)
    refuse_unpromised(subject, settings)
    began = time.monotonic()
    indices, limit = chosen(len(dataset), settings)
    fitted = to_inputs(dataset, subject, settings, indices)
    balls = [BALLS[settings.norm](eps, *fitted.value_range) for eps in settings.radii]
    labels = sorted(set(fitted.labels.tolist()))
    gates.check(eps=settings.radii, attacked=settings.attack, arithmetic=settings.arithmetic, labels=labels)
    softmax = (SOFTMAX,) if subject.network.plan().before_softmax()[1] is not None else ()
    for note in (*fitted.notes, *softmax, *([kernels.note] if kernels.note else [])):
        yield Note(note)
    seed = deployed.seed_of(settings, work.crew)
    yield Note(
        f"import, file and certificates are compared at points drawn by chance; --parity-seed {seed} draws the same"
    )
    with limited(work.preparing):
        parity = deployed.parity(subject, fitted, balls[-1], seed)
        deployed.require_independent(subject, fitted.images[: deployed.LOOKED_AT])
        doubt = subject.often_wrong(fitted.images, fitted.labels) if subject.normalise is None else None
    if doubt:
        yield Note(doubt, warning=True)
    pgd = PGD(settings.attack_steps, settings.restarts, seed=settings.seed) if settings.attack else None
    how = _how(subject, settings, pgd, kernels)
    told = {
        "tool": facts.tool(),
        "model": facts.model(subject),
        "preprocessing": facts.preprocessing(subject, fitted, source),
        "data": facts.data(dataset, len(indices), limit, settings.seed, fitted.notes),
        "threat": reports.Threat(norm=settings.norm, range=fitted.value_range),
        "method": facts.method(subject, settings, how, (*kernels.assumptions, *subject.assumptions)),
    }
    doubts = (*_comparable(gates, told, indices, fitted.labels), *left_to_the_model(gates, source))
    for note in doubts:
        yield Note(note, warning=True)
    result, spots = yield from deployed.decided(subject, fitted, balls, how, indices, seed, work)
    if result.blind:
        doubts = (*doubts, BLIND.format(result.blind))
        yield Note(doubts[-1], warning=True)
    samples = result.samples
    if settings.arithmetic == "float32-any-order":
        deployed.require_labels(subject, fitted.images, samples)
    levels = reports.levels(samples, looked=result.looked)
    fields = told | {
        "parity": parity.with_boxes(spots.samples, spots.points),
        "levels": levels,
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "counterexamples": samples.counterexamples.described if samples.counterexamples else None,
        "largest_eps": reports.largest_eps(samples, tolerance=str(verdicts.TOLERANCE)),
        "warnings": tuple(reports.Caution(message=note) for note in (*subject.imported.notes, *softmax, *doubts)),
    }
    pictures = _pictures(levels, indices, fitted) if settings.thumbnails else {}
    return Evidence(samples, fields, time.monotonic() - began, result.seconds, result.cut, seed, pictures)


def _pictures(levels: Sequence[reports.Level], indices: np.ndarray, fitted: Fitted) -> Pictures:
    """Of the samples whose margins are nearest to zero."""
    rows = np.flatnonzero(np.isin(indices, [edge.index for level in levels for edge in level.edge]))
    images = fitted.images[rows]
    return thumbnails(levels, indices[rows], images, value_range=fitted.value_range, layout=fitted.layout)


def conclude(evidence: Evidence, gates: Demands, training: reports.Training | None = None) -> reports.Result:
    """The result with its gates decided; incomplete too where nothing was checked that they, or the run, are about.

    A floor of zero is met by samples that nobody looked at: only gates on natural accuracy and parity pass without a proof or
    an attack.
    """
    known = evidence.fields
    outcomes = gates.outcomes(known["levels"], known["per_class"], evidence.samples, known["parity"])
    verdict = decided(outcomes)
    about_robustness = not outcomes or any(gate.metric in ("attacked", "certified") for gate in outcomes)
    if verdict == "pass" and about_robustness and not _anything_checked(known):
        verdict = "incomplete"
    return reports.Result(
        **known,
        gates=outcomes,
        verdict=verdict,
        training=training,
        partial=any(level.undecided for level in known["levels"]),
    )


def _anything_checked(known: Mapping[str, Any]) -> bool:
    """Whether an attack, or a proof that certifies, looked at any sample; a file that is always wrong leaves them none."""
    proves = known["method"].arithmetic != "none"
    levels = known["levels"]
    rungs = [rung for level in levels for rung in level.rungs if proves or rung.name.endswith("pgd")]
    return levels[0].natural.k == 0 or any(rung.examined for rung in rungs)


def _comparable(gates: Demands, told: Mapping[str, Any], indices: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Sentences on how a baseline was made otherwise. Raises InputRejected (3) where samples cannot be compared with it."""
    if gates.reference is None:
        return ()
    about = {name: told[name] for name in ("data", "threat", "preprocessing", "method")}
    return gates.reference.require_same(Setup(**about, index=indices, label=labels))


def _how(subject: Subject, settings: Settings, pgd: PGD | None, kernels: Kernels) -> verdicts.Strategy:
    fixed = subject.network.inputs[0].shape[0] is not None
    return verdicts.Strategy(
        settings.arithmetic,
        pgd,
        device_of(settings),
        1 if fixed else None,
        method=settings.method,
        largest_eps=settings.largest_eps,
        kernels=kernels.errors,
        memory=settings.memory_budget,
    )
