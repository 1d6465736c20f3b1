"""How eps, lambda, the learning rate and the running mean move: pure functions of step and epoch, both counted from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.train.hyperparameters import Recipe


def smoothed(step: int, *, start: int, end: int, final: float, beta: float = 4.0, mid: float = 0.25) -> float:
    """eps at batch ``step``: zero up to batch ``start``, a power up to the mid point, then linear to ``final`` at ``end``.

    With ``m = start + floor(mid (end - start))``, ``t = (m - start)^(beta - 1)`` and
    ``a = final / ((end - m) beta t + (m - start) t)``: ``eps = a (step - start)^beta`` up to ``m``, then the line of the same
    slope through it (Shi et al., arXiv 2103.17268, appendix; after Gowal et al., arXiv 1810.12715). ``step`` counts the
    batch about to be taken from one, so that the last batch of the ramp is trained at ``final`` itself.
    A ramp too short to have a power part is linear. Unit: that of ``final``.
    """
    if step <= start:
        return 0.0
    if step >= end:
        return final
    middle = start + int(mid * (end - start))
    if middle == start:
        return final * (step - start) / (end - start)
    t = float(middle - start) ** (beta - 1)
    a = final / ((end - middle) * beta * t + (middle - start) * t)
    if step <= middle:
        return a * float(step - start) ** beta
    reached = a * float(middle - start) ** beta
    return reached + (final - reached) * (step - middle) / (end - middle)


def regulariser_weight(eps: float, *, final: float, weight: float) -> float:
    """``lambda = lambda_0 (1 - eps / eps_max)``: it fades as the robust loss takes over (Shi et al., section 3.3)."""
    return weight * (1 - eps / final) if final > 0 else 0.0


def learning_rate(epoch: int, *, base: float, decays: Sequence[int], factor: float) -> float:
    """The rate of an epoch: multiplied by ``factor`` once each epoch in ``decays`` is over."""
    return base * factor ** sum(epoch > d for d in decays)


def mean_weight(update: int, *, decay: float) -> float:
    """``1 - d`` of an update of the running mean, from 0, with ``d = min(decay, n / (n + 9))`` (see ``Average``)."""
    return 1 - min(decay, update / (update + 9))


@dataclass(frozen=True)
class Numbers:
    """The numbers of one epoch; a list has an entry for each of its batches."""

    rate: float
    robust: bool
    """Whether eps has left zero."""
    regularised: bool
    eps: list[float]
    boxes: list[float]
    """The radius of what is walked: eps, or the floor while regularisers need a box."""
    weights: list[float]
    """Of the regularisers (lambda)."""
    kappas: list[float]
    """The share of the natural loss."""
    progress: list[float]
    """``eps / eps_max``."""
    means: list[float]
    """The weight of the running mean's update; empty where there is none."""


def numbers(recipe: Recipe, epoch: int, steps: int, final: float) -> Numbers:
    """The numbers of an epoch of ``steps`` batches that is to reach the radius ``final`` by the recipe's ramp."""
    r, before = recipe, (epoch - 1) * steps
    start, end = (r.warmup_start - 1) * steps, r.warmup_end * steps
    counted = range(before + 1, before + steps + 1)
    eps = [smoothed(s, start=start, end=end, final=final, beta=r.beta, mid=r.mid) for s in counted]
    progress = [e / final if final else 1.0 for e in eps]
    regularised = r.regularised and epoch <= r.warmup_end and final > 0
    # The boxes that a regulariser reads never shrink to points; the loss reads the same boxes.
    floor = r.eps_floor if regularised else 0.0
    return Numbers(
        rate=learning_rate(epoch, base=r.learning_rate, decays=r.decay_epochs, factor=r.decay_factor),
        robust=epoch >= r.warmup_start and final > 0,
        regularised=regularised,
        eps=eps,
        boxes=[max(e, floor) for e in eps],
        weights=[regulariser_weight(e, final=final, weight=r.reg_weight) for e in eps],
        kappas=[r.natural_start + (r.natural_end - r.natural_start) * p for p in progress],
        progress=progress,
        means=[mean_weight(before - end + i, decay=r.ema) for i in range(steps)] if r.ema and before >= end else [],
    )
