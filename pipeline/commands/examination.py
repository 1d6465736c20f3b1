"""The certification of an opened file on one part of a data set, and the fields of its result."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import certify as verdicts
from pipeline import results as reports
from pipeline.certify import PGD, BoxSampling, Certification, DeployedFile, Work
from pipeline.certify.batch_check import CHECKED_SAMPLES, require_batch_independence, require_batch_labels
from pipeline.commands import facts
from pipeline.commands.conclusion import shard_of
from pipeline.commands.events import Event, Note
from pipeline.commands.features import NamedRadii, ball_of
from pipeline.commands.guarantee import Kernels, kernels_of, require_guarantee
from pipeline.commands.input_check import check_inputs, require_threshold
from pipeline.commands.parity_check import measure_parity, seed_of
from pipeline.commands.proving import proofs, require_provable
from pipeline.commands.run_data import select_samples, to_inputs
from pipeline.commands.subject import Subject, device_of
from pipeline.core.threat import Ball
from pipeline.data import Dataset, Fitted
from pipeline.gates import Demands, Setup
from pipeline.gates.demands import note_on_metadata
from pipeline.render import Pictures, thumbnails
from pipeline.results.blocks import Rows, blocks, together_in
from pipeline.settings import Settings
from pipeline.system.clock import time_limit

NO_GATES = Demands()
BLIND = (
    "the attack saw no gradient on {} samples that survived it: something inside the network saturates or is a step, and the "
    "attacked accuracy may be too high"
)
ENDS = "the file ends in a {}, which keeps the order of its inputs: margins are taken of those"


@dataclass(frozen=True, eq=False)
class Evidence:
    """One certification, with the fields of its result."""

    samples: reports.Samples
    fields: dict[str, Any]
    """The fields of ``Result`` except gates, verdict and training."""
    seconds: float
    timings: dict[str, float]
    """Seconds by rung and eps."""
    incomplete: bool
    """Whether a budget left samples undecided."""
    seed: int
    """The seed of the random points at which import, runtime and certificates were compared."""
    pictures: Pictures = field(default_factory=dict)
    """Thumbnails of samples for the HTML page; the report itself holds no pixels."""


def examine(
    subject: Subject,
    dataset: Dataset,
    settings: Settings,
    source: dict[str, str],
    gates: Demands = NO_GATES,
    work: Work | None = None,
    run_sha256: str | None = None,
    radii: NamedRadii | None = None,
    proof: Path | None = None,
) -> Generator[Event, None, Evidence]:
    """Certify an opened file on one part of a data set, or on a shard of it.

    ``run_sha256`` is the key of the whole run where this is a shard, ``radii`` are the radii by feature, if any, ``proof`` is the
    folder for proofs, if any. What a report says of the run, rather than of the shard's samples, is computed from all samples of
    the run, so that it is the same in every shard.
    """
    work = work or Work(budget=settings.time_budget)
    kernels = kernels_of(subject, settings)
    require_guarantee(subject, settings)
    relus = None if proof is None else require_provable(subject, settings, work, by_feature=radii is not None)
    began = time.monotonic()
    indices, limit = select_samples(len(dataset), settings)
    fitted = to_inputs(dataset, subject, settings, indices)
    shard = None if run_sha256 is None else shard_of(len(indices), settings, gates, run_sha256)
    threat = facts.threat(settings, fitted, radii)
    balls = [ball_of(threat, eps, subject.sample_shape) for eps in settings.radii]
    labels = sorted(set(fitted.labels.tolist()))
    gates.check(eps=settings.radii, attacked=settings.attack, arithmetic=settings.arithmetic, labels=labels)
    last = "Sigmoid" if subject.threshold else "Softmax"
    softmax = (ENDS.format(last),) if subject.network.plan().before_softmax()[1] is not None else ()
    features = radii.notes if radii else ()
    for note in (*fitted.notes, *features, *softmax, *([kernels.note] if kernels.note else [])):
        yield Note(note)
    seed = seed_of(settings, work.group)
    yield Note(f"import, file and certificates are compared at random points; --parity-seed {seed} draws the same")
    with time_limit(work.preparing):
        parity = measure_parity(subject, fitted, balls[-1], seed)
        require_batch_independence(subject.predict_batches, fitted.images[:CHECKED_SAMPLES])
        require_threshold(subject, settings, fitted)
        doubt = check_inputs(subject, fitted)
    if doubt:
        yield Note(doubt.message, warning=True)
    pgd = PGD(settings.attack_steps, settings.restarts, seed=settings.seed) if settings.attack else None
    strategy = _strategy(subject, settings, pgd, kernels)
    own_blocks = blocks(len(indices)) if shard is None else shard.blocks
    own = np.concatenate(own_blocks)
    fields: dict[str, Any] = {
        "tool": facts.tool(),
        "model": facts.model(subject),
        "preprocessing": facts.preprocessing(subject, fitted, source),
        "data": facts.data(dataset, len(own), limit, settings.seed, fitted.notes),
        "threat": threat,
        "method": facts.method(subject, settings, strategy, kernels, threat),
    }
    warnings = (*_require_comparable(gates, fields, indices, fitted.labels), *note_on_metadata(gates, source))
    for note in warnings:
        yield Note(note, warning=True)
    layer_images = fitted.images[: verdicts.LAYER_SAMPLES]
    if shard is not None:
        yield Note(
            f"shard {shard}: {len(own)} of {len(indices)} samples; `pipeline merge` decides the gates of the whole run"
        )
        fitted, indices = fitted.take(own), indices[own]
    result, sampling = yield from _certify(
        subject, fitted, balls, strategy, indices, seed, work, together_in(own_blocks), layer_images
    )
    if result.blind:
        warnings = (*warnings, BLIND.format(result.blind))
        yield Note(warnings[-1], warning=True)
    samples = result.samples
    if settings.arithmetic == "float32-any-order":
        require_batch_labels(subject.predict_batches, fitted.images, samples)
    proof_entry = None
    if proof is not None and relus is not None:
        proof_entry = yield from proofs(subject, fitted, indices, strategy, result, proof, relus, work)
    levels = reports.levels(samples, details=result.details)
    fields |= {
        "parity": parity.with_boxes(sampling.samples, sampling.points),
        "levels": levels,
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "counterexamples": samples.counterexamples.described if samples.counterexamples else None,
        "proofs": proof_entry,
        "largest_eps": reports.largest_eps(samples, tolerance=str(verdicts.TOLERANCE)),
        "warnings": (
            *([reports.Caution(code="preprocessing", message=doubt.warning)] if doubt and doubt.warning else []),
            *(reports.Caution(message=note) for note in (*subject.imported.notes, *softmax, *warnings)),
        ),
        "shard": None if shard is None else shard.model_copy(update={"blind": result.blind}),
    }
    pictures = _pictures(levels, indices, fitted) if settings.thumbnails else {}
    return Evidence(samples, fields, time.monotonic() - began, result.seconds, result.incomplete, seed, pictures)


def _pictures(levels: Sequence[reports.Level], indices: np.ndarray, fitted: Fitted) -> Pictures:
    """Thumbnails of the samples whose margins are nearest to zero."""
    rows = np.flatnonzero(np.isin(indices, [edge.index for level in levels for edge in level.edge]))
    images = fitted.images[rows]
    return thumbnails(levels, indices[rows], images, value_range=fitted.value_range, layout=fitted.layout)


def _require_comparable(
    gates: Demands, fields: Mapping[str, Any], indices: np.ndarray, labels: np.ndarray
) -> tuple[str, ...]:
    """Sentences on differences to the setup of the baseline. Raises InputRejected (3) where they preclude a comparison."""
    if gates.reference is None:
        return ()
    setup = {name: fields[name] for name in ("data", "threat", "preprocessing", "method")}
    return gates.reference.require_same(Setup(**setup, index=indices, label=labels))


def _strategy(subject: Subject, settings: Settings, pgd: PGD | None, kernels: Kernels) -> verdicts.Strategy:
    fixed = subject.network.inputs[0].shape[0] is not None
    return verdicts.Strategy(
        settings.arithmetic,
        pgd,
        device_of(settings),
        1 if fixed else None,
        method=settings.method,
        domains=settings.max_domains,
        largest_eps=settings.largest_eps,
        kernels=kernels.errors,
        memory=settings.memory_budget,
    )


def _certify(
    subject: Subject,
    fitted: Fitted,
    balls: Sequence[Ball],
    strategy: verdicts.Strategy,
    indices: np.ndarray,
    seed: int,
    work: Work,
    own_blocks: Sequence[Rows],
    layer_images: np.ndarray,
) -> Generator[Event, None, tuple[Certification, BoxSampling]]:
    """The verdicts, checked on the file at points of certified boxes. Raises Contradiction (5) where the file refutes one."""
    certification: Certification | None = None
    for event in verdicts.certify(
        subject.network,
        subject.predict,
        fitted.images,
        fitted.labels,
        balls,
        strategy,
        indices=indices,
        blocks=own_blocks,
        layer_images=layer_images,
        work=work,
    ):
        if isinstance(event, Certification):
            certification = event
        else:
            yield event
    assert certification is not None, "certify ends with a Certification"
    outputs_are_logits = subject.network.plan().before_softmax()[1] is None
    margins = outputs_are_logits and strategy.arithmetic == "float32-any-order"
    deployed = DeployedFile(subject.network, subject.predict, fitted.images, fitted.labels, indices, margins)
    sampling = yield from verdicts.sample_boxes(deployed, certification, strategy, seed, work)
    points = sampling.ends
    if (broken := certification.samples.counterexamples) is not None:
        points = np.concatenate([points, broken.image[: len(points)]])
    if len(points):
        subject.require_parity_at(points)
    return certification, sampling
