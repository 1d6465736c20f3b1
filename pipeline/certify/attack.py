"""PGD: the falsifier that every certified sample must survive, and the upper bound on every certified figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.network import Network
from pipeline.threat import LinfBall

Predict = Callable[[np.ndarray], np.ndarray]
"""The deployed file: float32 inputs (n, ...) to logits (n, classes)."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on ``max_j z_j - z_y`` (Madry et al., arXiv 1706.06083, with the margin as the loss).

    ``steps`` sign steps of ``step * eps`` from a uniform random start, ``restarts`` times.
    """

    steps: int = 10
    restarts: int = 1
    step: float = 0.25
    seed: int = 0
    loss: str = "margin"


def attack(
    network: Network,
    predict: Predict,
    x: Float[Tensor, "batch *features"],
    labels: Int[Tensor, " batch"],
    indices: np.ndarray,
    ball: LinfBall,
    settings: PGD,
) -> tuple[np.ndarray, np.ndarray]:
    """Which samples the deployed file misclassifies somewhere in their ball, and the points that show it.

    Gradients come from the Network; a point counts only once ``predict`` has confirmed it. A broken sample leaves the
    attack. Every point lies inside the real ball with no tolerance, and depends on ``seed`` and the sample's own index
    alone, never on how the set was cut into batches.
    """
    broken = np.zeros(len(x), bool)
    found = x.cpu().numpy().copy()
    low, high = _ends(x, ball)
    step = settings.step * float(ball.radius)
    for restart in range(settings.restarts):
        alive = torch.from_numpy(np.flatnonzero(~broken)).to(x.device)
        start = _uniform(x.shape[1:], [(settings.seed, restart, int(i)) for i in indices[~broken]]).to(x)
        point = low[alive] + start * (high[alive] - low[alive])
        for last in range(settings.steps + 1):
            point = torch.minimum(torch.maximum(point, low[alive]), high[alive])
            gradient, suspect = _margin_gradient(network, point, labels[alive])
            where = torch.nonzero(suspect).flatten()
            if len(where):
                candidates = point[where].cpu().numpy()
                fooled = predict(candidates).argmax(1) != labels[alive][where].cpu().numpy()
                rows = alive[where].cpu().numpy()[fooled]
                broken[rows], found[rows] = True, candidates[fooled]
                keep = torch.ones(len(alive), dtype=torch.bool, device=x.device)
                keep[where[torch.from_numpy(fooled).to(x.device)]] = False
                alive, point, gradient = alive[keep], point[keep], gradient[keep]
            if not len(alive) or last == settings.steps:
                break
            point = point + step * gradient.sign()
    return broken, found


def _margin_gradient(network: Network, point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of ``max_j z_j - z_y`` in the input, and which samples it is no longer negative for."""
    point = point.detach().requires_grad_()
    logits = network(point)
    assert isinstance(logits, Tensor)
    logits = logits.flatten(1)
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    loss = logits.masked_fill(own, -torch.inf).amax(1) - logits[own]
    (gradient,) = torch.autograd.grad(loss.sum(), point)
    return gradient, ~(loss.detach() < 0)


def _ends(x: Tensor, ball: LinfBall) -> tuple[Tensor, Tensor]:
    """The least and greatest float32 inside the real ball around each pixel, so that no point leaves it by rounding."""
    exact, radius = x.double(), float(ball.radius)
    low, high = (exact - radius).clamp(min=ball.low), (exact + radius).clamp(max=ball.high)
    low32, high32 = low.float(), high.float()
    # One step inwards wherever the nearest float32 lies outside, or where float64 itself may have rounded.
    low32 = torch.where(low32.double() <= low, torch.nextafter(low32, x), low32)
    high32 = torch.where(high32.double() >= high, torch.nextafter(high32, x), high32)
    return torch.minimum(low32, x), torch.maximum(high32, x)


def _uniform(shape: torch.Size, seeds: list[tuple[int, int, int]]) -> Tensor:
    draws = [np.random.default_rng(seed).random(tuple(shape), np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(draws)) if draws else torch.zeros(0, *shape)
