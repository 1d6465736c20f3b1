"""``pipeline certify``: from a file and a data set to a report."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import certify as verdicts
from pipeline import report as reports
from pipeline.certify import PGD, Certification
from pipeline.data import Dataset, Fitted
from pipeline.errors import InputRejected
from pipeline.report import Gate
from pipeline.settings import CURVE, Settings, settle
from pipeline.threat import LinfBall
from pipeline.workflow import facts
from pipeline.workflow.events import Done, Event, Note
from pipeline.workflow.subject import Subject, chosen, device_of, metadata, need_data, open_model, test_part, to_inputs

SOFTMAX = "the file ends in a Softmax, which keeps the order of its inputs: margins are taken of those"


@dataclass(frozen=True, eq=False)
class Evidence:
    """One certification, and everything that a result says of it."""

    samples: reports.Samples
    fields: dict[str, Any]
    """Of ``Result``, all but gates, verdict and training."""
    seconds: float


def certify(
    model: Path, flags: Mapping[str, Any], *, report: Path | None = None, argv: Sequence[str] = ()
) -> Iterator[Event]:
    """Certify a file on a data set; the last event is ``Done``.

    ``flags`` are settings under the names of ``Settings``; what they leave open is settled by ``pipeline.toml``, the file's
    metadata and defaults. Raises what the exit codes stand for: see ``pipeline.errors``.
    """
    started = datetime.now(UTC)
    settings, source = settle(model, flags, metadata(model))
    gates = [reports.parse_gate(text) for text in settings.fail_under]
    whole = [gate for gate in gates if gate.label is None]
    reports.check_gates(whole, eps=[str(e) for e in settings.eps or CURVE], labels=(), attacked=settings.attack)
    subject = open_model(model, settings)
    for note in subject.imported.notes:
        yield Note(note)
    uri = settings.test_data or need_data(subject, settings)
    dataset = test_part(uri, settings)
    if settings.eps is None:
        yield Note(f"no eps was given: the curve over {', '.join(map(str, CURVE))}")
    evidence = yield from examine(subject, dataset, settings, source, gates)
    result = conclude(evidence, gates)
    described = reports.Report.of("certification", result, facts.run(started, argv, device_of(settings), {}))
    folder = report or Path(f"{model.stem}.report")
    reports.write(described, evidence.samples, folder)
    yield Done(described, folder)


def examine(
    subject: Subject,
    dataset: Dataset,
    settings: Settings,
    source: dict[str, str],
    gates: Sequence[Gate] = (),
) -> Generator[Event, None, Evidence]:
    """Certify an opened file on one part of a data set."""
    _refuse_unpromised(subject, settings)
    began = time.monotonic()
    indices, limit = chosen(len(dataset), settings)
    fitted = to_inputs(dataset.take(indices), subject, settings)
    balls = [LinfBall(eps, *fitted.value_range) for eps in settings.eps or CURVE]
    labels = sorted(set(fitted.labels.tolist()))
    reports.check_gates(gates, eps=[str(b.eps) for b in balls], labels=labels, attacked=settings.attack)
    softmax = (SOFTMAX,) if subject.network.plan().before_softmax()[1] else ()
    for note in (*fitted.notes, *softmax):
        yield Note(note)
    parity = subject.parity_on(fitted.images[:32])
    pgd = PGD(settings.attack_steps, settings.restarts, seed=settings.seed) if settings.attack else None
    result = yield from _verdicts(subject, fitted, balls, settings, pgd, indices)
    samples = facts.samples(result, fitted.labels, indices)
    fields = {
        "tool": facts.tool(),
        "model": facts.model(subject),
        "preprocessing": facts.preprocessing(subject, fitted, source),
        "data": facts.data(dataset, len(indices), limit, settings.seed, fitted.notes),
        "threat": reports.Threat(range=fitted.value_range),
        "method": facts.method(settings, pgd),
        "parity": facts.parity(parity),
        "levels": reports.levels(samples),
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "warnings": tuple(reports.Caution(message=note) for note in (*subject.imported.notes, *softmax)),
    }
    return Evidence(samples, fields, time.monotonic() - began)


def conclude(evidence: Evidence, gates: Sequence[Gate], training: reports.Training | None = None) -> reports.Result:
    """The result with its gates decided."""
    outcomes = reports.evaluate(gates, evidence.fields["levels"], evidence.fields["per_class"])
    return reports.Result(**evidence.fields, gates=outcomes, verdict=reports.verdict(outcomes), training=training)


def _verdicts(
    subject: Subject,
    fitted: Fitted,
    balls: Sequence[LinfBall],
    settings: Settings,
    pgd: PGD | None,
    indices: np.ndarray,
) -> Generator[Event, None, Certification]:
    fixed = subject.network.inputs[0].shape[0] is not None
    how = verdicts.Settings(settings.arithmetic, pgd, device_of(settings), 1 if fixed else None)
    for event in verdicts.certify(
        subject.network, subject.predict, fitted.images, fitted.labels, balls, how, indices=indices
    ):
        if isinstance(event, Certification):
            return event
        yield event
    raise AssertionError("certify ends with a Certification")


def _refuse_unpromised(subject: Subject, settings: Settings) -> None:
    """Raise InputRejected where nothing makes the promise of the mode true of this file on the provider asked for."""
    convolutions = sum(node.op_type == "Conv" for node in subject.imported.model.graph.node)
    if settings.arithmetic == "float32-any-order" and settings.provider == "cuda" and convolutions:
        raise InputRejected(
            "on CUDA, no option of ONNX Runtime 1.20 or newer rules out transform convolutions, and this model has "
            f"{convolutions} Conv nodes: float32-any-order cannot be promised there. Use `--arithmetic real` or `--provider cpu`."
        )
    factors = [f for w in subject.network.provenance.weights.values() for step, f in w.steps if step == "scale"]
    if settings.arithmetic == "real" and any(abs(math.frexp(f)[0]) != 0.5 for f in factors):
        raise InputRejected(
            "a Gemm's alpha or beta was multiplied into its weights in float32, which exact arithmetic does not allow for; "
            "the default `--arithmetic float32-any-order` covers it."
        )
