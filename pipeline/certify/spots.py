"""Certified boxes sampled on the delivered file, as it is deployed: the second net under a proof.

Of every certified sample a few points that nobody could foresee, corners among them, and of some where an attack ends: the file
must give each the sample's label, by at least the margin that was proved.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.attack import PGD, Predict, attack, inside
from pipeline.certify.scheduler import Work
from pipeline.certify.verdicts import Certification, Images, Strategy
from pipeline.core.network import Network
from pipeline.core.threat import Ball
from pipeline.errors import Contradiction
from pipeline.progress import Progress
from pipeline.results import Verdict

BATCH = 256
ALONE, CHASED = 32, 64
"""Of how many samples a point is run by itself, and how many an attack goes after once more, at most."""
KEPT = 4
"""Ends of attacks that are handed on."""


@dataclass(frozen=True, eq=False)
class Spots:
    """How many certified samples were looked at, at how many points drawn for each, and some points where attacks ended.

    Points run by themselves, and those where attacks ended, are more where more processes work, and are not counted.
    """

    samples: int
    points: int
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class Deployed:
    """What was certified, and how the file is asked."""

    network: Network
    predict: Predict
    images: Images
    labels: np.ndarray
    indices: np.ndarray
    margins: bool
    """Whether the file gives the very logits whose margins were bounded, in the arithmetic that was meant."""


def unforeseen(x: Tensor, ball: Ball, rng: np.random.Generator) -> list[Tensor]:
    """Four float32 points of each sample's ball: one anywhere, two corners, one with some coordinates at their ends."""
    draws = rng.random((4, *x.shape), np.float32)
    draws[1:3] = draws[1:3].round()
    draws[3] = np.where(rng.random(x.shape) < 0.5, draws[3].round(), draws[3])
    return [inside(x, ball, torch.from_numpy(d).to(x)) for d in draws]


def sampled(
    about: Deployed, found: Certification, settings: Strategy, seed: int, work: Work
) -> Generator[Progress, None, Spots]:
    """Run every certified sample at points of its largest certified ball, until the budget is spent.

    Raises Contradiction (5) where the file gives another label, or a smaller margin than was proved.
    """
    certified = found.samples.verdict == Verdict.CERTIFIED
    highest = len(certified) - 1 - certified[::-1].argmax(0)
    rows = np.flatnonzero(certified.any(0))
    mine = rows[work.crew.rows(len(rows))]
    rng = np.random.default_rng((seed, work.crew.rank))
    faults: list[str] = []
    looked = points = 0
    ends: list[np.ndarray] = []
    chased = set(rng.permutation(mine)[:CHASED].tolist()) if settings.attack is not None else set()
    for level in np.unique(highest[mine]):
        of_level, ball = mine[highest[mine] == level], found.balls[level]
        for start in range(0, len(of_level), BATCH):
            if work.over or faults:
                break
            part = of_level[start : start + BATCH]
            bounds = found.samples.margin_lower[level, part]
            x = torch.from_numpy(about.images[part])
            drawn = [point.numpy() for point in unforeseen(x, ball, rng)]
            for point in drawn:
                faults += _faults(about, part, bounds, about.predict(point), ball)
            one = range(min(len(part), max(0, ALONE - looked)))
            alone = [about.predict(drawn[1][i : i + 1]) for i in one]
            if alone:
                faults += _faults(about, part[: len(alone)], bounds[: len(alone)], np.concatenate(alone), ball)
            after = np.flatnonzero([int(row) in chased for row in part])
            if len(after) and settings.attack is not None:
                ended = _chase(about, part[after], ball, settings, seed)
                faults += _faults(about, part[after], bounds[after], about.predict(ended), ball)
                ends.append(ended)
            looked += len(part)
            points += len(part) * len(drawn)
            yield Progress("sampling certified boxes", looked, len(mine))
    told = work.crew.share((faults, looked, points))
    if wrong := [fault for part, _, _ in told for fault in part]:
        raise Contradiction(
            f"{wrong[0]}. One of the two is wrong, so nothing is reported as certified; --parity-seed {seed} draws the same"
            " points."
        )
    kept = np.concatenate(ends)[:KEPT] if ends else about.images[:0]
    return Spots(sum(n for _, n, _ in told), sum(n for _, _, n in told), kept)


def _chase(about: Deployed, rows: np.ndarray, ball: Ball, settings: Strategy, seed: int) -> np.ndarray:
    """Where a short attack from another start ends."""
    assert settings.attack is not None
    pgd = PGD(min(settings.attack.steps, 10), seed=seed)
    network = copy.deepcopy(about.network).to(settings.device)
    size, ends = settings.batch or len(rows), list[np.ndarray]()
    for some in (rows[at : at + size] for at in range(0, len(rows), size)):
        x = torch.from_numpy(about.images[some]).to(settings.device)
        y = torch.from_numpy(about.labels[some]).to(settings.device)
        ends.append(attack(network, about.predict, x, y, about.indices[some], ball, pgd).points)
    return np.concatenate(ends)


def _faults(about: Deployed, rows: np.ndarray, bounds: np.ndarray, logits: np.ndarray, ball: Ball) -> Iterator[str]:
    """What contradicts a certificate, in words."""
    labels, each = about.labels[rows], np.arange(len(rows))
    said = np.where(np.isfinite(logits).all(1), logits.argmax(1), -1)
    z = logits.astype(np.float64)
    own = z[each, labels]
    z[each, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        margin = own - z.max(1)
    for i in np.flatnonzero((said != labels) | (about.margins & ~(margin >= bounds))):
        yield (
            f"Sample {about.indices[rows[i]]}, label {labels[i]}, was proved at eps {ball.eps} with a margin of at least"
            f" {bounds[i]:.9g}; run on the file, a point of its box has label {said[i]} and margin {margin[i]:.9g}"
        )
