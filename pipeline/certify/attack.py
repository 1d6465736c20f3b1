"""PGD: the falsifier that every certified sample must survive, and the upper bound on every certified figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.certify.pursuit import Pursuit
from pipeline.core.network import Network
from pipeline.core.threat import Ball, L2Ball

Predict = Callable[[np.ndarray], np.ndarray]
"""The deployed file: float32 inputs (n, ...) to logits (n, classes)."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on ``max_j z_j - z_y`` (Madry et al., arXiv 1706.06083, with the margin as the loss).

    ``steps`` steps of ``step * eps`` from a random start, ``restarts`` times: along the sign of the gradient for a box,
    along the gradient itself for a Euclidean ball.
    """

    steps: int = 10
    restarts: int = 1
    step: float = 0.25
    seed: int = 0
    loss: str = "margin"

    @property
    def longer(self) -> PGD:
        """The attack on what a short one and cheap bounds leave open: four times the steps, finer, three times the starts."""
        return PGD(4 * self.steps, 3 * self.restarts, 0.4 * self.step, self.seed + 1, self.loss)


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
    broken, blind, pursuit = np.zeros(len(x), bool), np.ones(len(x), bool), Pursuit.of(network)
    found, became = x.cpu().numpy().copy(), labels.cpu().numpy().astype(np.int64)
    space = _Space.around(x, ball)
    for restart in range(settings.restarts):
        if broken.all():
            break
        alive = torch.from_numpy(np.flatnonzero(~broken)).to(x.device)
        here = space.of(alive)
        point = here.start(_uniform(x.shape[1:], [(settings.seed, restart, int(i)) for i in indices[~broken]]).to(x))
        for last in range(settings.steps + 1):
            check()
            point = here.project(point)
            gradient, suspect = pursuit.gradient(point, labels[alive])
            flat = ~gradient.flatten(1).any(1)
            blind[alive[~flat].cpu().numpy()] = False
            where = torch.nonzero(suspect & here.inside(point)).flatten()
            if len(where):
                candidates = point[where].cpu().numpy()
                said = predict(candidates).argmax(1)
                fooled = said != labels[alive][where].cpu().numpy()
                rows = alive[where].cpu().numpy()[fooled]
                broken[rows], found[rows], became[rows] = True, candidates[fooled], said[fooled]
                keep = torch.ones(len(alive), dtype=torch.bool, device=x.device)
                keep[where[torch.from_numpy(fooled).to(x.device)]] = False
                alive, point, gradient, flat = alive[keep], point[keep], gradient[keep], flat[keep]
                here = space.of(alive)
            if not len(alive) or last == settings.steps:
                break
            if bool(flat.any()):
                rows = indices[alive[flat].cpu().numpy()]
                drawn = _uniform(x.shape[1:], [(settings.seed, restart, last, int(i)) for i in rows])
                gradient[flat] = drawn.to(x) - 0.5
            point = here.climb(point, gradient, settings.step)
        found[alive.cpu().numpy()] = point.cpu().numpy()
    return Attacked(broken, found, became, blind & ~broken)


def inside(x: Float[Tensor, " batch *features"], ball: Ball, draws: Tensor) -> Tensor:
    """Float32 points inside the real balls, of draws from [0, 1]: from end to end of a box, a direction in a Euclidean ball."""
    space = _Space.around(x, ball)
    return space.project(space.start(draws))


def moved_inside(x: Float[Tensor, " one *features"], ball: Ball, points: Tensor) -> Float[Tensor, " batch *features"]:
    """The float32 points inside the real ball of one sample that are next to the given ones."""
    space = _Space.around(x, ball).of(torch.zeros(len(points), dtype=torch.int64, device=x.device))
    found = space.project(points)
    return torch.where(space.inside(found).reshape(-1, *[1] * (x.dim() - 1)), found, x)


@dataclass(frozen=True, eq=False)
class _Space:
    """Where the attack may go: the box ``[low, high]``, and no further than ``reach`` from ``x`` where that is given."""

    x: Tensor
    low: Tensor
    high: Tensor
    radius: float
    euclidean: bool

    @classmethod
    def around(cls, x: Tensor, ball: Ball) -> _Space:
        return cls(x, *_ends(x, ball), float(ball.radius), isinstance(ball, L2Ball))

    def of(self, rows: Tensor) -> _Space:
        return _Space(self.x[rows], self.low[rows], self.high[rows], self.radius, self.euclidean)

    def start(self, draws: Tensor) -> Tensor:
        if self.euclidean:
            return self.x + self.radius * _unit(draws - 0.5)
        return torch.where(draws == 1, self.high, self.low + draws * (self.high - self.low))

    def climb(self, point: Tensor, gradient: Tensor, step: float) -> Tensor:
        return point + step * self.radius * (_unit(gradient) if self.euclidean else gradient.sign())

    def project(self, point: Tensor) -> Tensor:
        point = torch.minimum(torch.maximum(point, self.low), self.high)
        if not self.euclidean:
            return point
        # A little short of the sphere: the float32 point itself must lie inside.
        shrink = (self.radius * (1 - 1e-6) / _length(point, self.x).clamp_min(1e-300)).clamp(max=1)
        point = (self.x + (point.double() - self.x) * shrink).to(self.x.dtype)
        return torch.minimum(torch.maximum(point, self.low), self.high)

    def inside(self, point: Tensor) -> Tensor:
        """Whether each point lies in the real ball, whatever float64 rounded away; the box holds by construction."""
        if not self.euclidean:
            return torch.ones(len(point), dtype=torch.bool, device=point.device)
        return _length(point, self.x).flatten() * (1 + 1e-9) <= self.radius


def _length(point: Tensor, x: Tensor) -> Tensor:
    """``|point - x|_2`` in float64, shaped to broadcast over samples."""
    return (point.double() - x.double()).flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (direction.dim() - 1))


def _ends(x: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """The least and greatest float32 inside the real box around each pixel, so that no point leaves it by rounding."""
    exact, radius = x.double(), float(ball.radius)
    low, high = (exact - radius).clamp(min=ball.low), (exact + radius).clamp(max=ball.high)
    low32, high32 = low.float(), high.float()
    # One step inwards wherever the nearest float32 lies outside, or where float64 itself may have rounded.
    low32 = torch.where(low32.double() <= low, torch.nextafter(low32, x), low32)
    high32 = torch.where(high32.double() >= high, torch.nextafter(high32, x), high32)
    return torch.minimum(low32, x), torch.maximum(high32, x)


def _uniform(shape: torch.Size, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    draws = [np.random.default_rng(seed).random(tuple(shape), np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(draws)) if draws else torch.zeros(0, *shape)
