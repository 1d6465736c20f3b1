"""One certification of an opened file on one part of a data set, and the result that follows from it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import certify as verdicts
from pipeline import results as reports
from pipeline.certify import PGD, BoxSampling, Certification, DeployedFile, Work
from pipeline.certify.batch_check import CHECKED_SAMPLES, require_batch_independence, require_batch_labels
from pipeline.commands import facts
from pipeline.commands.conclusion import share_of
from pipeline.commands.events import Event, Note
from pipeline.commands.features import Reach, ball_of
from pipeline.commands.first_look import first_look, require_said_threshold
from pipeline.commands.promises import Kernels, measured, refuse_unpromised
from pipeline.commands.proving import proofs, require_provable
from pipeline.commands.run_data import chosen, to_inputs
from pipeline.commands.subject import Subject, device_of
from pipeline.core.feature_box import FeatureBox
from pipeline.core.threat import Ball
from pipeline.data import Dataset, Fitted
from pipeline.distributed.group import Crew
from pipeline.gates import Demands, Setup
from pipeline.gates.demands import note_on_metadata
from pipeline.onnx.parity import MeasuredParity
from pipeline.render import Pictures, thumbnails
from pipeline.results.blocks import Rows, blocks, together_in
from pipeline.settings import Settings
from pipeline.system.clock import time_limit

NONE = Demands()
BLIND = (
    "the attack saw no gradient on {} samples that survived it: something inside the network saturates or is a step, and the "
    "attacked accuracy may be too high"
)
ENDS = "the file ends in a {}, which keeps the order of its inputs: margins are taken of those"


SPANNED = 1024
"""Samples between whose values points are drawn where features have no common range."""
REAL, IN_BOXES = 16, 2
"""Real samples at which parity is measured, and how many samples' boxes it is looked into."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """One certification, and everything that a result says of it."""

    samples: reports.Samples
    fields: dict[str, Any]
    """Of ``Result``, all but gates, verdict and training."""
    seconds: float
    timings: dict[str, float]
    """Seconds of each rung, by its name and eps."""
    incomplete: bool
    """Whether a budget left samples undecided."""
    seed: int
    """Of the points at which import, runtime and certificates were compared."""
    pictures: Pictures = field(default_factory=dict)
    """Of samples, for the page: a report holds no pixel."""


def examine(
    subject: Subject,
    dataset: Dataset,
    settings: Settings,
    source: dict[str, str],
    gates: Demands = NONE,
    work: Work | None = None,
    run: str | None = None,
    reach: Reach | None = None,
    proof: Path | None = None,
) -> Generator[Event, None, Evidence]:
    """Certify an opened file on one part of a data set, or on a shard of it: ``run`` is the digest of the whole run then.

    ``reach`` are radii by feature, where there are some.

    Whatever is said of the run is found from all of its samples, in every shard alike. ``proof`` is the folder for proofs,
    where they are asked for.
    """
    work = work or Work(budget=settings.time_budget)
    kernels = measured(subject, settings)
    refuse_unpromised(subject, settings)
    relus = None if proof is None else require_provable(subject, settings, work, by_feature=reach is not None)
    began = time.monotonic()
    indices, limit = chosen(len(dataset), settings)
    fitted = to_inputs(dataset, subject, settings, indices)
    shard = None if run is None else share_of(len(indices), settings, gates, run)
    threat = facts.threat(settings, fitted, reach)
    balls = [ball_of(threat, eps, subject.sample_shape) for eps in settings.radii]
    labels = sorted(set(fitted.labels.tolist()))
    gates.check(eps=settings.radii, attacked=settings.attack, arithmetic=settings.arithmetic, labels=labels)
    together = subject.predict_together
    last = "Sigmoid" if subject.threshold else "Softmax"
    softmax = (ENDS.format(last),) if subject.network.plan().before_softmax()[1] is not None else ()
    features = reach.notes if reach else ()
    for note in (*fitted.notes, *features, *softmax, *([kernels.note] if kernels.note else [])):
        yield Note(note)
    seed = seed_of(settings, work.crew)
    yield Note(
        f"import, file and certificates are compared at points drawn by chance; --parity-seed {seed} draws the same"
    )
    with time_limit(work.preparing):
        parity = _parity(subject, fitted, balls[-1], seed)
        require_batch_independence(together, fitted.images[:CHECKED_SAMPLES])
        require_said_threshold(subject, settings, fitted)
        doubt = first_look(subject, fitted)
    if doubt:
        yield Note(doubt.said, warning=True)
    pgd = PGD(settings.attack_steps, settings.restarts, seed=settings.seed) if settings.attack else None
    how = _how(subject, settings, pgd, kernels)
    cut = blocks(len(indices)) if shard is None else shard.blocks
    own = np.concatenate(cut)
    told = {
        "tool": facts.tool(),
        "model": facts.model(subject),
        "preprocessing": facts.preprocessing(subject, fitted, source),
        "data": facts.data(dataset, len(own), limit, settings.seed, fitted.notes),
        "threat": threat,
        "method": facts.method(subject, settings, how, kernels, threat),
    }
    doubts = (*_comparable(gates, told, indices, fitted.labels), *note_on_metadata(gates, source))
    for note in doubts:
        yield Note(note, warning=True)
    layer_images = fitted.images[: verdicts.LAYER_SAMPLES]
    if shard is not None:
        yield Note(
            f"shard {shard}: {len(own)} of {len(indices)} samples; `pipeline merge` decides what is asked of all"
        )
        fitted, indices = fitted.take(own), indices[own]
    result, spots = yield from _proved(subject, fitted, balls, how, indices, seed, work, together_in(cut), layer_images)
    if result.blind:
        doubts = (*doubts, BLIND.format(result.blind))
        yield Note(doubts[-1], warning=True)
    samples = result.samples
    if settings.arithmetic == "float32-any-order":
        require_batch_labels(together, fitted.images, samples)
    proved = None
    if proof is not None and relus is not None:
        proved = yield from proofs(subject, fitted, indices, how, result, proof, relus, work)
    levels = reports.levels(samples, details=result.details)
    fields = told | {
        "parity": parity.with_boxes(spots.samples, spots.points),
        "levels": levels,
        "per_class": reports.per_class(samples),
        "samples": samples.described,
        "counterexamples": samples.counterexamples.described if samples.counterexamples else None,
        "proofs": proved,
        "largest_eps": reports.largest_eps(samples, tolerance=str(verdicts.TOLERANCE)),
        "warnings": (
            *([reports.Caution(code="preprocessing", message=doubt.grave)] if doubt and doubt.grave else []),
            *(reports.Caution(message=note) for note in (*subject.imported.notes, *softmax, *doubts)),
        ),
        "shard": None if shard is None else shard.model_copy(update={"blind": result.blind}),
    }
    pictures = _pictures(levels, indices, fitted) if settings.thumbnails else {}
    return Evidence(samples, fields, time.monotonic() - began, result.seconds, result.incomplete, seed, pictures)


def _pictures(levels: Sequence[reports.Level], indices: np.ndarray, fitted: Fitted) -> Pictures:
    """Of the samples whose margins are nearest to zero."""
    rows = np.flatnonzero(np.isin(indices, [edge.index for level in levels for edge in level.edge]))
    images = fitted.images[rows]
    return thumbnails(levels, indices[rows], images, value_range=fitted.value_range, layout=fitted.layout)


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
        domains=settings.max_domains,
        largest_eps=settings.largest_eps,
        kernels=kernels.errors,
        memory=settings.memory_budget,
    )


def seed_of(settings: Settings, crew: Crew) -> int:
    """The seed that was asked for, else one by chance, the same in all processes."""
    return crew.share(secrets.randbits(32) if settings.parity_seed is None else settings.parity_seed)[0]


def _parity(subject: Subject, fitted: Fitted, ball: Ball, seed: int) -> MeasuredParity:
    """Parity at real samples, and at points drawn in the boxes of some and in the whole range. Raises InputRejected (3)."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(fitted.images[np.sort(rng.permutation(len(fitted.images))[:IN_BOXES])])
    drawn = [point.numpy() for point in verdicts.random_points(x, ball, rng)]
    drawn.append(_anywhere(fitted, ball, x.numpy(), rng))
    return subject.parity_on(fitted.images[:REAL], np.concatenate(drawn))


def _anywhere(fitted: Fitted, ball: Ball, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of the whole range, or of what samples span where each feature has its own; what is fixed stays that of ``x``."""
    if not isinstance(ball, FeatureBox):
        low, high = fitted.value_range
        return (low + (high - low) * rng.random(x.shape)).astype(np.float32)
    seen = fitted.images[:SPANNED]
    points = seen.min(0) + (seen.max(0) - seen.min(0)) * rng.random(x.shape)
    return np.where(ball.features.radius > 0, points, x).astype(np.float32)


def _proved(
    subject: Subject,
    fitted: Fitted,
    balls: Sequence[Ball],
    how: verdicts.Strategy,
    indices: np.ndarray,
    seed: int,
    work: Work,
    cut: Sequence[Rows],
    layer_images: np.ndarray,
) -> Generator[Event, None, tuple[Certification, BoxSampling]]:
    """The verdicts, and certified boxes sampled on the file. Raises Contradiction (5) where the file is outside a bound."""
    found: Certification | None = None
    for event in verdicts.certify(
        subject.network,
        subject.predict,
        fitted.images,
        fitted.labels,
        balls,
        how,
        indices=indices,
        blocks=cut,
        layer_images=layer_images,
        work=work,
    ):
        if isinstance(event, Certification):
            found = event
        else:
            yield event
    assert found is not None, "certify ends with a Certification"
    bare = subject.network.plan().before_softmax()[1] is None
    margins = bare and how.arithmetic == "float32-any-order"
    about = DeployedFile(subject.network, subject.predict, fitted.images, fitted.labels, indices, margins)
    spots = yield from verdicts.sample_boxes(about, found, how, seed, work)
    ends = spots.ends
    if (broken := found.samples.counterexamples) is not None:
        ends = np.concatenate([ends, broken.image[: len(ends)]])
    if len(ends):
        subject.agrees_at(ends)
    return found, spots
