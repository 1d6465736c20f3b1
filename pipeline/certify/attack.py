"""PGD, the one attack: the falsifier that whatever is certified must survive, and the upper bound on every certified figure."""

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
from pipeline.certify.engine import ARENA, fit
from pipeline.certify.pursuit import Pursuit
from pipeline.certify.space import Space
from pipeline.core.network import Network
from pipeline.core.threat import Ball

Predict = Callable[[np.ndarray], np.ndarray]
"""The deployed file: float32 inputs (n, ...) to logits (n, classes)."""
Judge = Callable[[Tensor, Tensor, Tensor], np.ndarray]
"""Which of some samples, by number, are broken by their points; the third argument is what ``Specification.least`` is there."""


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
        """The attack on what a short one and cheap bounds leave open: four times the steps, finer, three times the starts."""
        return replace(self, steps=4 * self.steps, restarts=3 * self.restarts, step=0.4 * self.step, seed=self.seed + 1)

    def size(self, step: int) -> float:
        """How far a step goes."""
        return self.step if self.last is None else self.step * (self.last / self.step) ** (step / self.steps)


def descend(
    pursuit: Pursuit,
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
    """Descend on a specification from one start of each sample, until ``judge`` calls it broken or the steps are made.

    Gives the points where each ended, and whether it ever saw a gradient.

    The judge is shown points at which ``Specification.least`` is at most ``near`` of the size of its terms. Where no gradient is
    left, ``stray(step, samples)`` gives a direction; without it the sample stays where it is. ``joint``: see
    ``Specification.least``. ``check`` is called at every step, and may raise to end the attack.
    """
    ends, saw = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    at, point = torch.arange(len(start), device=start.device), start
    for step in range(settings.steps + 1):
        check()
        point = space.project(point)
        least, size, gradient = pursuit.at(point, rows, joint=joint, slope=step < settings.steps)
        flat = ~gradient.flatten(1).any(1)
        ends[at], saw[at[~flat]] = point, True
        going = ~flat if stray is None else torch.ones_like(flat)
        suspect = torch.nonzero(~(least > near * size) & space.inside(point)).flatten()
        if len(suspect):
            broken = torch.from_numpy(judge(at[suspect], point[suspect], least[suspect]))
            going[suspect] &= ~broken.to(going.device)
        if step == settings.steps or not bool(going.any()):
            break
        if not bool(going.all()):
            at, point, gradient, flat = at[going], point[going], gradient[going], flat[going]
            rows, space = rows[:, going], space[going]
        if stray is not None and bool(flat.any()):
            gradient[flat] = stray(step, at[flat])
        point = space.fall(point, gradient, settings.size(step))
    return ends, saw


class Attacked(NamedTuple):
    """By sample: whether the file misclassifies a point of its ball, that point, and the label it gets there.

    Of a sample that is not broken the point is where the attack ended.
    """

    broken: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    blind: np.ndarray | None = None
    """Whether no gradient was ever seen, so that nothing but chance was tried."""


def attack(
    network: Network,
    predict: Predict,
    x: Float[Tensor, " batch *features"],
    labels: Int[Tensor, " batch"],
    indices: np.ndarray,
    ball: Ball,
    settings: PGD,
    check: Callable[[], None] = lambda: None,
) -> Attacked:
    """Which samples the deployed file misclassifies somewhere in their ball, and the points that show it.

    Gradients are those of the margins that are bounded, before whatever saturates behind them (``Pursuit``); where they vanish,
    a step goes in a random direction. A point counts only once ``predict`` has confirmed it. A broken sample leaves the attack.
    Every point lies inside the real ball with no tolerance, and depends on ``seed`` and the sample's own index alone, never on
    how the set was cut into batches. ``check`` is called at every step, and may raise to end the attack.
    """
    with torch.no_grad():
        rows = Specification.margins(labels, network(x[:1]).numel())
    pursuit, space, own = Pursuit.logits(network), Space.around(x, ball), labels.cpu().numpy()
    broken, blind = np.zeros(len(x), bool), np.ones(len(x), bool)
    found, became = x.cpu().numpy().copy(), own.astype(np.int64)
    for restart in range(settings.restarts):
        alive = np.flatnonzero(~broken)
        if not len(alive):
            break

        def judge(at: Tensor, points: Tensor, least: Tensor, alive: np.ndarray = alive) -> np.ndarray:
            picked, label = alive[at.cpu().numpy()], predict(points.cpu().numpy()).argmax(1)
            fooled = label != own[picked]
            broken[picked[fooled]], became[picked[fooled]] = True, label[fooled]
            return fooled

        def drawn(rows: np.ndarray, *seeds: int) -> Tensor:
            return uniform(x.shape[1:], [(settings.seed, *seeds, int(i)) for i in indices[rows]]).to(x)

        def stray(step: int, at: Tensor, restart: int = restart, alive: np.ndarray = alive) -> Tensor:
            return 0.5 - drawn(alive[at.cpu().numpy()], restart, step)

        here = torch.from_numpy(alive).to(x.device)
        start = space[here].start(drawn(alive, restart))
        ends, saw = descend(pursuit, rows[:, here], space[here], start, settings, judge, stray=stray, check=check)
        found[alive] = ends.cpu().numpy()
        blind[alive] &= ~saw.cpu().numpy()
    return Attacked(broken, found, became, blind & ~broken)


def attacked_at_once(network: Network, sample: Tensor, memory: int | None, most: int) -> int:
    """Samples for one step of the attack, whose points are in turn given to the file."""
    label, pursuit = torch.zeros(1, dtype=torch.int64, device=sample.device), Pursuit.logits(network)
    with torch.no_grad():
        classes = network(sample).numel()
    step = footprint(lambda: pursuit.at(sample, Specification.margins(label, classes)))
    return fit(step, 1 + ARENA, memory, most)


def inside(x: Float[Tensor, " batch *features"], ball: Ball, draws: Tensor) -> Tensor:
    """Float32 points inside the real balls, of draws from [0, 1]: see ``Space.start``."""
    space = Space.around(x, ball)
    return space.project(space.start(draws))


def moved_inside(x: Float[Tensor, " one *features"], ball: Ball, points: Tensor) -> Float[Tensor, " batch *features"]:
    """The float32 points inside the real ball of one sample that are next to the given ones."""
    space = Space.around(x, ball)[torch.zeros(len(points), dtype=torch.int64, device=x.device)]
    found = space.project(points)
    return torch.where(space.inside(found).reshape(-1, *[1] * (x.dim() - 1)), found, x)


def uniform(shape: Sequence[int], seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Draws from [0, 1], one for each seed.

    Seeds are those of numpy's default generator."""
    draws = [np.random.default_rng(seed).random(tuple(shape), np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(draws)) if draws else torch.zeros(0, *shape)
