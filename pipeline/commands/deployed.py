"""The delivered file run at points that nobody can foresee, and in batches: a second check of import, bounds and certificates.

That samples are independent is shown by the graph (``onnx/batch/axis.py``); the runs in batches check it once more."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence

import numpy as np
import torch

from pipeline import certify as verdicts
from pipeline.certify import Certification, Deployed, Spots, Work
from pipeline.certify.verdicts import Images
from pipeline.commands.events import Event
from pipeline.commands.subject import Subject
from pipeline.core.threat import Ball
from pipeline.data import Fitted
from pipeline.distributed.group import Crew
from pipeline.errors import Contradiction, InputRejected
from pipeline.onnx.parity import Comparison
from pipeline.results import Samples, Verdict
from pipeline.settings import Settings

REAL, IN_BOXES = 16, 2
"""Real samples at which parity is measured, and how many samples' boxes it is looked into."""


def seed_of(settings: Settings, crew: Crew) -> int:
    """The seed that was asked for, else one by chance, the same in all processes."""
    return crew.share(secrets.randbits(32) if settings.parity_seed is None else settings.parity_seed)[0]


def parity(subject: Subject, fitted: Fitted, ball: Ball, seed: int) -> Comparison:
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
    how: verdicts.Strategy,
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
    about = Deployed(subject.network, subject.predict, fitted.images, fitted.labels, indices, margins)
    spots = yield from verdicts.sampled(about, found, how, seed, work)
    ends = spots.ends
    if (broken := found.samples.counterexamples) is not None:
        ends = np.concatenate([ends, broken.image[: len(ends)]])
    if len(ends):
        subject.agrees_at(ends)
    return found, spots


BATCHES = (1, 2, 3, 8, 31)
"""How many samples are run together."""
LOOKED_AT = 62
TOLERANCE = 1e-4
"""Of the largest output of a sample: kernels round otherwise in other company."""


def require_independent(subject: Subject, images: np.ndarray) -> None:
    """Raise InputRejected (3) where an output of the file depends on how many samples, or which, it is run with."""
    if subject.session.fixed_batch is not None:
        return
    alone = subject.predict(images, chunk=1)
    size = TOLERANCE * np.abs(alone).max(1, keepdims=True, initial=0.0)
    for batch in BATCHES[1:]:
        found = subject.predict(images, chunk=batch)
        with np.errstate(invalid="ignore"):
            apart = ~((np.abs(found - alone) <= size) | (found == alone) | (np.isnan(found) & np.isnan(alone)))
        if apart.any():
            raise InputRejected(
                f"a sample must have its outputs in whatever company; {int(apart.any(1).sum())} of {len(images)} have others in "
                f"batches of {batch} than alone. Export the model so that it takes each sample by itself."
            )


def require_labels(subject: Subject, images: Images, samples: Samples) -> None:
    """Raise Contradiction (5) where a certified sample has another label in a batch than the one that was certified."""
    certified = np.flatnonzero((samples.verdict == Verdict.CERTIFIED).any(0))[:LOOKED_AT]
    if subject.session.fixed_batch is not None or not len(certified):
        return
    for batch in BATCHES:
        found = subject.predict(images[certified], chunk=batch).argmax(1)
        if (wrong := found != samples.label[certified]).any():
            named = ", ".join(str(i) for i in samples.index[certified][wrong][:10])
            raise Contradiction(
                f"{int(wrong.sum())} certified samples have another label in batches of {batch} (samples {named}): the file does "
                "not take each sample by itself, and nothing is reported as certified; please report this with the model."
            )
