"""What nobody can foresee: the points at which import, runtime and certificates are held against each other in one run."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence

import numpy as np
import torch

from pipeline import certify as verdicts
from pipeline import report as reports
from pipeline.certify import Certification, Delivered, Spots, Work
from pipeline.crew import Crew
from pipeline.data import Fitted
from pipeline.graph.parity import Parity
from pipeline.settings import Settings
from pipeline.threat import Ball
from pipeline.workflow.events import Event
from pipeline.workflow.subject import Subject

REAL, IN_BOXES = 16, 2
"""Real samples at which parity is measured, and how many samples' boxes it is looked into."""


def seed_of(settings: Settings, crew: Crew) -> int:
    """The seed that was asked for, else one by chance, the same in all processes."""
    return crew.share(secrets.randbits(32) if settings.parity_seed is None else settings.parity_seed)[0]


def parity(subject: Subject, fitted: Fitted, ball: Ball, seed: int) -> Parity:
    """Parity at real samples, and at points drawn in the boxes of some and in the whole range. Raises InputRejected (3)."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(fitted.images[np.sort(rng.permutation(len(fitted.images))[:IN_BOXES])])
    drawn = [point.numpy() for point in verdicts.unforeseen(x, ball, rng)]
    low, high = fitted.value_range
    drawn.append((low + (high - low) * rng.random((IN_BOXES, *x.shape[1:]))).astype(np.float32))
    return subject.parity_on(fitted.images[:REAL], np.concatenate(drawn))


def decided(
    subject: Subject,
    fitted: Fitted,
    balls: Sequence[Ball],
    how: verdicts.Settings,
    indices: np.ndarray,
    seed: int,
    work: Work,
) -> Generator[Event, None, tuple[Certification, Spots]]:
    """The verdicts, and certified boxes sampled on the file. Raises Contradiction (5) where the file is outside a bound."""
    found: Certification | None = None
    for event in verdicts.certify(
        subject.network, subject.predict, fitted.images, fitted.labels, balls, how, indices=indices, work=work
    ):
        if isinstance(event, Certification):
            found = event
        else:
            yield event
    assert found is not None, "certify ends with a Certification"
    bare = subject.network.plan().before_softmax()[1] is None
    margins = bare and how.arithmetic == "float32-any-order"
    about = Delivered(subject.network, subject.predict, fitted.images, fitted.labels, indices, margins)
    spots = yield from verdicts.sampled(about, found, how, seed, work)
    if len(ends := np.concatenate([spots.ends, found.counterexamples.images[: len(spots.ends)]])):
        subject.agrees_at(ends)
    return found, spots


def told(measured: Parity, spots: Spots) -> reports.Parity:
    """How far the bounded network and the file's own runtime were apart."""
    return reports.Parity(
        provider=measured.provider,
        n=measured.points,
        tolerance=measured.tolerance,
        max_abs_difference=measured.max_abs_difference,
        scale=measured.scale,
        argmax_disagreements=measured.argmax_disagreements,
        left_out=measured.left_out,
        batch_sizes=measured.batch_sizes,
        points=measured.points_by_node,
        nodes=measured.nodes,
        nodes_with_tolerance=measured.nodes_with_tolerance,
        boxes=spots.samples,
        box_points=spots.points,
    )
