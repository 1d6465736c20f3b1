"""``pipeline certify --property``: from a file and a property to a verdict, with a witness if it is violated."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.certify import PGD, Progress
from pipeline.certify.counterexample import LONG, Falsifier, Judge, exactly
from pipeline.certify.property import MAX_BOXES, Outcome, prove
from pipeline.certify.refuter import BATCH, Refuter
from pipeline.certify.subdomain import Subdomain
from pipeline.certify.witness import Witness
from pipeline.commands import facts
from pipeline.commands.events import Note, PropertyDone
from pipeline.commands.guarantee import Kernels, kernels_of
from pipeline.commands.open_property import open_for, require_rules
from pipeline.commands.parity_check import seed_of
from pipeline.commands.subject import Subject, device_of, opened
from pipeline.distributed.group import SINGLE
from pipeline.errors import UsageError
from pipeline.gates.demands import GATES
from pipeline.methods import DOMAINS, bounding, up_to
from pipeline.onnx.model_file import ModelFile
from pipeline.results.property import (
    PropertyFile,
    PropertyModel,
    PropertyReport,
    PropertyResult,
    PropertyVerdict,
    WitnessPoint,
    write_property,
)
from pipeline.results.statements import ASSUMPTIONS, PROPERTY
from pipeline.settings import Settings, settle
from pipeline.system import run_folder
from pipeline.system.clock import Clock
from pipeline.vnnlib import Property, PropertyText, counterexample, exact, load, parse

ATTACK_SHARE = 0.3
"""The share of a time budget for the search for a counterexample that precedes the proof."""
LONGER = 6
"""The second search has this many times as many starts as the first."""
ABOUT_DATA = {"data", "test_data", "download", "range", "mean", "std", "layout", "label_offset", "max_samples"}
ABOUT_DATA |= {"eps", "norm", "largest_eps", "thumbnails"} | GATES


def decide(
    model: Path,
    property_file: Path,
    flags: Mapping[str, Any],
    *,
    report: Path | None = None,
    keep: bool = True,
    argv: Sequence[str] = (),
) -> Iterator[Note | Progress | PropertyDone]:
    """Decide whether a property holds of a model, by counterexample or proof. The last event is ``PropertyDone``.

    Without ``keep`` no report is written. Raises UsageError (2) for flags about data, InputRejected (3) for files that cannot be
    read or bounded, Contradiction (5) where two independent readings of the property disagree about a counterexample.
    """
    folder = (report or run_folder.property_folder(property_file)) if keep else None
    if folder is not None:
        run_folder.require_folder(folder)
    if unused := sorted(ABOUT_DATA & flags.keys()):
        names = ", ".join("--" + name.replace("_", "-") for name in unused)
        raise UsageError(f"a property says itself which inputs are meant; {names} cannot stand beside --property.")
    yield from decide_opened(opened(model), property_file.name, load(property_file), flags, folder=folder, argv=argv)


def decide_opened(
    file: ModelFile,
    name: str,
    text: PropertyText,
    flags: Mapping[str, Any],
    *,
    folder: Path | None = None,
    argv: Sequence[str] = (),
) -> Iterator[Note | Progress | PropertyDone]:
    """``decide`` for files that are already read; ``name`` is the property's, ``folder`` is for the report, if any."""
    began, started = time.monotonic(), datetime.now(UTC)
    settings, source = settle(file.path, flags, file.metadata)
    clock = Clock(None if settings.time_budget is None else began + settings.time_budget)
    question = parse(text.text)
    settings = _of_declared_types(settings, source, question)
    seed = seed_of(settings, SINGLE)
    subject = open_for(file, settings, question, seed)
    notes = list(subject.imported.notes)
    if question.vacuous:
        notes.append(f"{question.vacuous} disjuncts are met by no input (an empty box, or a false comparison)")
    if question.relaxed:
        notes.append(
            f"{question.relaxed} constraints over several inputs, or inputs and outputs, are judged at counterexamples alone: "
            "bounds are over a larger set"
        )
    for note in notes:
        yield Note(note)
    names = [port.name for port in subject.network.outputs]
    judge = Judge(question, text.text, lambda point: subject.session.flat(point, names))
    falsifier = _falsifier(subject, question, judge, settings, source) if settings.attack else None
    outcome, witness, kernels = yield from _search_and_prove(subject, question, falsifier, settings, clock)
    execution = kernels.on(subject.executed.execution)
    result = PropertyResult(
        tool=facts.tool(),
        model=PropertyModel(file=file.path.name, sha256=file.digests.sha256, bytes=len(file.content)),
        property=PropertyFile(
            file=name,
            sha256=text.sha256,
            inputs=question.inputs,
            outputs=question.outputs,
            boxes=len(question.cases),
            conjunctions=sum(len(case.unsafe) for case in question.cases),
            vacuous=question.vacuous,
        ),
        output=settings.output,
        arithmetic=settings.arithmetic,
        provider=settings.provider,
        execution=execution,
        statement=PROPERTY[settings.arithmetic].format(execution=execution),
        assumptions=(*ASSUMPTIONS[settings.arithmetic], *kernels.assumptions, *subject.assumptions),
        verdict=_verdict(outcome, witness, settings),
        methods=bounding(up_to(settings.method)),
        decided_by=_decided_by(outcome, witness),
        boxes_bounded=outcome.boxes,
        boxes_open=len(outcome.open),
        unfinished=outcome.unfinished,
        attack=None if falsifier is None else _attack(falsifier.settings),
        witness=None if witness is None else _witness_point(witness),
        notes=(*notes, *([kernels.note] if kernels.note else [])),
    )
    run = facts.run(started, argv, device_of(settings), {}, parity_seed=seed)
    described = PropertyReport.of("property", result, run)
    if folder is not None:
        witness_text = None if witness is None else counterexample(witness.x, exactly(witness.y))
        write_property(described, witness_text, folder)
    yield PropertyDone(described, folder)


def _of_declared_types(settings: Settings, source: Mapping[str, str], question: Property) -> Settings:
    """The settings in the arithmetic that the property declares, if any. Raises UsageError where flags ask for a weaker one."""
    types = {one.element_type for one in question.declared}
    if types == {"real"} and "arithmetic" not in source:
        return settings.model_copy(update={"arithmetic": "real"})
    if "float32" in types and settings.arithmetic == "real":
        raise UsageError(
            "the property declares float32, about which --arithmetic real proves nothing: leave the flag out, or declare real."
        )
    return settings


def _search_and_prove(
    subject: Subject,
    question: Property,
    falsifier: Falsifier | None,
    settings: Settings,
    clock: Clock,
) -> Generator[Progress, None, tuple[Outcome, Witness | None, Kernels]]:
    """A short search for a counterexample, a proof, and if neither decides, a long search in the open subdomains."""
    seconds_left = None if clock.deadline is None else max(0.0, clock.deadline - time.monotonic())
    witness = (
        falsifier.search(Clock.of(None if seconds_left is None else seconds_left * ATTACK_SHARE)) if falsifier else None
    )
    if witness is not None:
        return Outcome.before(question), witness, Kernels()
    require_rules(subject.network)
    kernels, device = kernels_of(subject, settings), device_of(settings)
    network = subject.network.in_float64().to(device)
    refuter = Refuter(
        network,
        question,
        settings.arithmetic,
        kernels=kernels.errors,
        method=settings.method,
        batch=1 if network.inputs[0].shape[0] is not None else BATCH,
        memory=settings.memory_budget,
    )

    def stop(subdomains: Sequence[Subdomain]) -> bool:
        return falsifier is not None and falsifier.probe(subdomains, clock) is not None

    def try_points(subdomain: Subdomain, points: Tensor) -> bool:
        return falsifier is not None and falsifier.at(subdomain, points) is not None

    most = settings.max_domains or (DOMAINS if clock.deadline is None else MAX_BOXES)
    outcome = yield from prove(refuter, clock, stop=stop, try_points=try_points, domains=most)
    if falsifier is None:
        return outcome, None, kernels
    if falsifier.found is None and outcome.open and not outcome.timed_out:
        first = falsifier.settings.restarts
        falsifier.search(clock, starts=range(first, LONGER * first), among=outcome.open)
    return outcome, falsifier.found, kernels


def _falsifier(
    subject: Subject, question: Property, judge: Judge, settings: Settings, source: Mapping[str, str]
) -> Falsifier:
    pgd = replace(
        LONG,
        steps=settings.attack_steps if "attack_steps" in source else LONG.steps,
        restarts=settings.restarts if "restarts" in source else LONG.restarts,
        seed=settings.seed,
    )
    network = copy.deepcopy(subject.network).to(device_of(settings))
    return Falsifier(network, question, pgd, judge)


def _attack(pgd: PGD) -> dict[str, float]:
    """The attack as reports state it, with steps as shares of the width of a box."""
    first, last = pgd.step / 2, (pgd.last or pgd.step) / 2
    return {"steps": pgd.steps, "starts": pgd.restarts, "first": first, "last": last, "seed": pgd.seed}


def _verdict(outcome: Outcome, witness: Witness | None, settings: Settings) -> PropertyVerdict:
    if witness is not None:
        return "violated"
    if not outcome.open and settings.arithmetic != "none":
        return "holds"
    return "timeout" if outcome.timed_out else "unknown"


def _decided_by(outcome: Outcome, witness: Witness | None) -> str | None:
    if witness is not None:
        return "onnxruntime"
    if outcome.open or not outcome.boxes:
        return None
    halves = [f"{outcome.splits} boxes halved"] if outcome.splits else []
    domains = [f"{outcome.domains} parts by the signs of ReLUs"] if outcome.domains else []
    return ", ".join([outcome.by, *halves, *domains])


def _witness_point(witness: Witness) -> WitnessPoint:
    return WitnessPoint(
        x=tuple(map(exact, witness.x)), y=tuple(map(exact, exactly(witness.y))), rounded=witness.rounded
    )
