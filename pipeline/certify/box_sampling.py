"""A second check of certificates: the delivered file is run at points of certified boxes.

For every certified sample these are a few random points, corners among them, and for some the last point of another attack.
The file must give each the sample's label, by at least the proved margin.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.attack import PGD, Predict, attack, points_inside
from pipeline.certify.scheduler import Work
from pipeline.certify.verdicts import Certification, Images, Strategy
from pipeline.core.network import Network
from pipeline.core.threat import Ball
from pipeline.errors import Contradiction
from pipeline.progress import Progress
from pipeline.results import Verdict

BATCH = 256
RUN_ALONE, ATTACK_AGAIN = 32, 64
"""For how many samples, at most, a point is run in a batch of one, and how many are attacked again."""
KEEP = 4
"""How many last points of attacks are returned."""


@dataclass(frozen=True, eq=False)
class BoxSampling:
    """How many certified samples were checked, at how many random points in all, and some last points of attacks.

    ``points`` does not count points run alone and those of attacks, whose number grows with that of processes.
    """

    samples: int
    points: int
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class DeployedFile:
    """What was certified, and how to run the file on it."""

    network: Network
    predict: Predict
    images: Images
    labels: np.ndarray
    indices: np.ndarray
    margins: bool
    """Whether the file outputs the very logits whose margins were bounded, in float32, so that margins can be compared."""


def random_points(x: Tensor, ball: Ball, rng: np.random.Generator) -> list[Tensor]:
    """Four float32 points of each sample's ball: an interior one, two corners, one with about half its coordinates extreme."""
    draws = rng.random((4, *x.shape), np.float32)
    draws[1:3] = draws[1:3].round()
    draws[3] = np.where(rng.random(x.shape) < 0.5, draws[3].round(), draws[3])
    return [points_inside(x, ball, torch.from_numpy(d).to(x)) for d in draws]


def sample_boxes(
    deployed: DeployedFile, certification: Certification, settings: Strategy, seed: int, work: Work
) -> Generator[Progress, None, BoxSampling]:
    """Run the file at points of each sample's largest certified ball, until the budget is spent.

    Raises Contradiction (5) where the file gives another label, or a smaller margin than was proved.
    """
    certified = certification.samples.verdict == Verdict.CERTIFIED
    highest = len(certified) - 1 - certified[::-1].argmax(0)
    rows = np.flatnonzero(certified.any(0))
    mine = rows[work.group.rows(len(rows))]
    rng = np.random.default_rng((seed, work.group.rank))
    faults: list[str] = []
    checked = points = 0
    ends: list[np.ndarray] = []
    to_attack = set(rng.permutation(mine)[:ATTACK_AGAIN].tolist()) if settings.attack is not None else set()
    for level in np.unique(highest[mine]):
        of_level, ball = mine[highest[mine] == level], certification.balls[level]
        for start in range(0, len(of_level), BATCH):
            if work.over or faults:
                break
            part = of_level[start : start + BATCH]
            bounds = certification.samples.margin_lower[level, part]
            x = torch.from_numpy(deployed.images[part])
            drawn = [point.numpy() for point in random_points(x, ball, rng)]
            for point in drawn:
                faults += _faults(deployed, part, bounds, deployed.predict(point), ball)
            one = range(min(len(part), max(0, RUN_ALONE - checked)))
            alone = [deployed.predict(drawn[1][i : i + 1]) for i in one]
            if alone:
                faults += _faults(deployed, part[: len(alone)], bounds[: len(alone)], np.concatenate(alone), ball)
            again = np.flatnonzero([int(row) in to_attack for row in part])
            if len(again) and settings.attack is not None:
                last = _attack_again(deployed, part[again], ball, settings, seed)
                faults += _faults(deployed, part[again], bounds[again], deployed.predict(last), ball)
                ends.append(last)
            checked += len(part)
            points += len(part) * len(drawn)
            yield Progress("sampling certified boxes", checked, len(mine))
    by_process = work.group.all_gather((faults, checked, points))
    if wrong := [fault for part, _, _ in by_process for fault in part]:
        raise Contradiction(
            f"{wrong[0]}. One of the two is wrong, so nothing is reported as certified; --parity-seed {seed} draws the same"
            " points."
        )
    some_ends = np.concatenate(ends)[:KEEP] if ends else deployed.images[:0]
    return BoxSampling(sum(n for _, n, _ in by_process), sum(n for _, _, n in by_process), some_ends)


def _attack_again(deployed: DeployedFile, rows: np.ndarray, ball: Ball, settings: Strategy, seed: int) -> np.ndarray:
    """The last points of a short attack from another start, float32: (rows, *features)."""
    assert settings.attack is not None
    pgd = PGD(min(settings.attack.steps, 10), seed=seed)
    network = copy.deepcopy(deployed.network).to(settings.device)
    size, ends = settings.batch or len(rows), list[np.ndarray]()
    for some in (rows[at : at + size] for at in range(0, len(rows), size)):
        x = torch.from_numpy(deployed.images[some]).to(settings.device)
        y = torch.from_numpy(deployed.labels[some]).to(settings.device)
        ends.append(attack(network, deployed.predict, x, y, deployed.indices[some], ball, pgd).points)
    return np.concatenate(ends)


def _faults(
    deployed: DeployedFile, rows: np.ndarray, bounds: np.ndarray, logits: np.ndarray, ball: Ball
) -> Iterator[str]:
    """A sentence for each sample whose ``logits`` at a point contradict its certificate, a margin of at least ``bounds``."""
    labels, each = deployed.labels[rows], np.arange(len(rows))
    predicted = np.where(np.isfinite(logits).all(1), logits.argmax(1), -1)
    z = logits.astype(np.float64)
    own = z[each, labels]
    z[each, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        margin = own - z.max(1)
    for i in np.flatnonzero((predicted != labels) | (deployed.margins & ~(margin >= bounds))):
        yield (
            f"Sample {deployed.indices[rows[i]]}, label {labels[i]}, was proved at eps {ball.eps} with a margin of at least"
            f" {bounds[i]:.9g}; run on the file, a point of its box has label {predicted[i]} and margin {margin[i]:.9g}"
        )
