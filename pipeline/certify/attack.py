"""Projected gradient descent (PGD), the only attack: it finds counterexamples, and so bounds the robust accuracy from above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.bounds.footprint import footprint
from pipeline.bounds.specification import Specification
from pipeline.certify.attack_objective import AttackObjective
from pipeline.certify.engine import ARENA, fit
from pipeline.certify.space import Space
from pipeline.core.network import Network
from pipeline.core.threat import Ball

Predict = Callable[[np.ndarray], np.ndarray]
"""The deployed file: from float32 inputs (n, ...) to logits (n, classes)."""
Judge = Callable[[Tensor, Tensor, Tensor], np.ndarray]
"""``judge(samples, points, least)``: a mask of the points that are counterexamples to the samples of these numbers.

``least`` is ``Specification.least`` at each point.
"""


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on ``Specification.least`` (Madry et al., arXiv 1706.06083, with the margin as the loss).

    ``steps`` steps from each of ``restarts`` points: along the sign of the gradient for a box, along the gradient itself for a
    Euclidean ball, by ``step`` of the radius (of half the width of a box), falling geometrically to ``last`` where that is given.
    """

    steps: int = 10
    restarts: int = 1
    step: float = 0.25
    seed: int = 0
    loss: str = "margin"
    last: float | None = None

    @property
    def longer(self) -> PGD:
        """The attack on samples that the short one and cheap bounds did not decide: more, finer steps and more restarts."""
        return replace(self, steps=4 * self.steps, restarts=3 * self.restarts, step=0.4 * self.step, seed=self.seed + 1)

    def size(self, step: int) -> float:
        """The length of step number ``step``, as a multiple of the radius."""
        return self.step if self.last is None else self.step * (self.last / self.step) ** (step / self.steps)


def descend(
    objective: AttackObjective,
    rows: Specification,
    space: Space,
    start: Float[Tensor, " batch *features"],
    settings: PGD,
    judge: Judge,
    *,
    near: float = 0.0,
    joint: bool = False,
    stray: Callable[[int, Tensor], Tensor] | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Descend on a specification from one start per sample, until ``judge`` accepts a counterexample or all steps are taken.

    Returns the last point of each sample, and whether any gradient on its way was nonzero.

    The judge is given points at which ``Specification.least`` is at most ``near`` times the size of its terms. Where the
    gradient is zero, ``stray(step, samples)`` gives a direction; without it the sample stops there. ``joint``: see
    ``Specification.least``. ``check`` is called at every step, and may raise to end the attack.
    """
    ends, had_gradient = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    at, point = torch.arange(len(start), device=start.device), start
    for step in range(settings.steps + 1):
        check()
        point = space.project(point)
        least, size, gradient = objective.evaluate(point, rows, joint=joint, slope=step < settings.steps)
        flat = ~gradient.flatten(1).any(1)
        ends[at], had_gradient[at[~flat]] = point, True
        active = ~flat if stray is None else torch.ones_like(flat)
        suspect = torch.nonzero(~(least > near * size) & space.inside(point)).flatten()
        if len(suspect):
            broken = torch.from_numpy(judge(at[suspect], point[suspect], least[suspect]))
            active[suspect] &= ~broken.to(active.device)
        if step == settings.steps or not bool(active.any()):
            break
        if not bool(active.all()):
            at, point, gradient, flat = at[active], point[active], gradient[active], flat[active]
            rows, space = rows[:, active], space[active]
        if stray is not None and bool(flat.any()):
            gradient[flat] = stray(step, at[flat])
        point = space.step(point, gradient, settings.size(step))
    return ends, had_gradient


class AttackResult(NamedTuple):
    """For each sample: whether the file misclassifies a point of its ball, that point, and the point's label.

    For a sample that is not broken, the point is the last one of the attack.
    """

    broken: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    blind: np.ndarray | None = None
    """Whether every gradient was zero, so that only random points were tried."""


def attack(
    network: Network,
    predict: Predict,
    x: Float[Tensor, " batch *features"],
    labels: Int[Tensor, " batch"],
    indices: np.ndarray,
    ball: Ball,
    settings: PGD,
    check: Callable[[], None] = lambda: None,
) -> AttackResult:
    """Attack samples; returns which ones the deployed file misclassifies somewhere in their ball, and the points.

    Gradients are those of the bounded margins, taken before any saturating operator at the end (``AttackObjective``); where
    they vanish, a step goes in a random direction. A point counts only if ``predict`` confirms it, and the sample then leaves
    the attack. Every point lies inside the real ball, without tolerance, and depends only on ``seed`` and the sample's index,
    never on the batches. ``check`` is called at every step, and may raise to end the attack.
    """
    with torch.no_grad():
        rows = Specification.margins(labels, network(x[:1]).numel())
    objective, space, own = AttackObjective.logits(network), Space.around(x, ball), labels.cpu().numpy()
    broken, blind = np.zeros(len(x), bool), np.ones(len(x), bool)
    best, new_label = x.cpu().numpy().copy(), own.astype(np.int64)
    for restart in range(settings.restarts):
        alive = np.flatnonzero(~broken)
        if not len(alive):
            break

        def judge(at: Tensor, points: Tensor, least: Tensor, alive: np.ndarray = alive) -> np.ndarray:
            row, label = alive[at.cpu().numpy()], predict(points.cpu().numpy()).argmax(1)
            fooled = label != own[row]
            broken[row[fooled]], new_label[row[fooled]] = True, label[fooled]
            return fooled

        def noise(rows: np.ndarray, *seeds: int) -> Tensor:
            return uniform(x.shape[1:], [(settings.seed, *seeds, int(i)) for i in indices[rows]]).to(x)

        def stray(step: int, at: Tensor, restart: int = restart, alive: np.ndarray = alive) -> Tensor:
            return 0.5 - noise(alive[at.cpu().numpy()], restart, step)

        here = torch.from_numpy(alive).to(x.device)
        start = space[here].start(noise(alive, restart))
        ends, had_gradient = descend(
            objective, rows[:, here], space[here], start, settings, judge, stray=stray, check=check
        )
        best[alive] = ends.cpu().numpy()
        blind[alive] &= ~had_gradient.cpu().numpy()
    return AttackResult(broken, best, new_label, blind & ~broken)


def attack_batch_size(network: Network, sample: Tensor, memory: int | None, most: int) -> int:
    """How many samples to attack at once: at most ``most``, and as many as ``memory`` bytes hold."""
    label, objective = torch.zeros(1, dtype=torch.int64, device=sample.device), AttackObjective.logits(network)
    with torch.no_grad():
        classes = network(sample).numel()
    step = footprint(lambda: objective.evaluate(sample, Specification.margins(label, classes)))
    return fit(step, 1 + ARENA, memory, most)


def points_inside(x: Float[Tensor, " batch *features"], ball: Ball, draws: Tensor) -> Float[Tensor, " batch *features"]:
    """A float32 point inside each sample's real ball, from draws in [0, 1] (``Space.start``)."""
    space = Space.around(x, ball)
    return space.project(space.start(draws))


def nearest_inside(x: Float[Tensor, " one *features"], ball: Ball, points: Tensor) -> Float[Tensor, " batch *features"]:
    """The float32 points nearest to the given ones inside the real ball of one sample."""
    space = Space.around(x, ball)[torch.zeros(len(points), dtype=torch.int64, device=x.device)]
    projected = space.project(points)
    return torch.where(space.inside(projected).reshape(-1, *[1] * (x.dim() - 1)), projected, x)


def uniform(shape: Sequence[int], seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Uniform draws from [0, 1), of ``shape`` for each seed of numpy's default generator: (seeds, *shape)."""
    draws = [np.random.default_rng(seed).random(tuple(shape), np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(draws)) if draws else torch.zeros(0, *shape)
