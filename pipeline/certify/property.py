"""Proofs of properties: every box of an unsafe set is refuted, by the cheapest bound that does, in parts where need be.

What stays open in few dimensions is cut where the linear bound loses most, ``|coefficient| * width``, the "smart branching" of
Xu et al. (arXiv 2011.13824) for inputs, or where the box is widest; in more, it is divided by the signs of ReLUs
(``complete``), and up to ``MIXED_INPUTS`` by inputs and signs in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.complete import Decision, Room, decide
from pipeline.certify.refuter import Refuter
from pipeline.certify.subdomain import Subdomain, whole
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Box
from pipeline.methods import COMPLETE, IBP, BoundingMethod
from pipeline.progress import Progress
from pipeline.results import Unfinished
from pipeline.system.clock import Clock, OutOfTime
from pipeline.vnnlib import Property

SPLIT_INPUTS = 8
"""Boxes are cut only where at most this many inputs vary: more dimensions have too many halves."""
MIXED_INPUTS, FIRST, FEW = 32, 1_000, 64
"""Boxes of at most so many varying inputs are cut too, once so many parts by signs were not enough; then each has a few."""
FAIR = 1.01
"""What the share of an input in the widths counts for, where its share in the cost counts 1: so each is cut in the end."""
MAX_BOXES = 1 << 17
"""How many boxes are bounded where no time budget says when to stop."""


@dataclass
class Outcome:
    """How a proof ended: ``left`` patches stand open, ``boxes`` were bounded; ``by`` is the dearest method that was needed."""

    left: list[Subdomain]
    boxes: int = 0
    by: str = IBP
    splits: int = 0
    domains: int = 0
    """Into how many parts boxes were divided by the signs of ReLUs."""
    timed_out: bool = False
    unfinished: Unfinished | None = None
    """Why the first box that could not be divided to the end is open."""

    @classmethod
    def before(cls, question: Property) -> Outcome:
        """Nothing is refuted yet."""
        return cls([whole(i, case) for i, case in enumerate(question.cases)])


def prove(
    refuter: Refuter,
    clock: Clock,
    *,
    split: bool = True,
    stop: Callable[[Sequence[Subdomain]], bool] = lambda patches: False,
    look: Callable[[Subdomain, Tensor], bool] = lambda patch, points: False,
    domains: int = MAX_BOXES,
) -> Generator[Progress, None, Outcome]:
    """Refute every case; returns what came of it.

    ``stop`` sees what is about to be cut, ``look`` points at which a bound is least: either may end it. A box is divided into
    ``domains`` parts by the signs of ReLUs at most.
    """
    outcome = Outcome.before(refuter.question)
    refuter.engine.check = clock.check
    try:
        refuter.fit()
        for method in refuter.methods:
            outcome.left = yield from _sweep(refuter, outcome, method, clock)
            if not outcome.left:
                break
        if split and all(_free(refuter, patch).sum() <= SPLIT_INPUTS for patch in outcome.left):
            yield from _split(refuter, outcome, clock, stop)
        elif split:
            mixed = all(_free(refuter, patch).sum() <= MIXED_INPUTS for patch in outcome.left)
            more = yield from _by_signs(refuter, outcome, clock, look, min(domains, FIRST) if mixed else domains)
            if mixed and more:
                yield from _in_turn(refuter, outcome, clock, look, domains)
    except OutOfTime:
        outcome.timed_out = True
    return outcome


def _sweep(
    refuter: Refuter, outcome: Outcome, method: BoundingMethod, clock: Clock
) -> Generator[Progress, None, list[Subdomain]]:
    """All open patches by one method; returns those that stay open."""
    patches = outcome.left
    left: list[Subdomain] = []
    for start in range(0, len(patches), refuter.batch):
        clock.check()
        part, _ = refuter.bound(patches[start : start + refuter.batch], method)
        outcome.boxes += min(refuter.batch, len(patches) - start)
        if len(part) < len(patches[start : start + refuter.batch]):
            outcome.by = method.name
        left += part
        yield Progress(method.name, min(start + refuter.batch, len(patches)), len(patches))
    return left


def _split(
    refuter: Refuter, outcome: Outcome, clock: Clock, stop: Callable[[Sequence[Subdomain]], bool]
) -> Iterator[Progress]:
    """Halve what is open, depth first, until nothing is, or what remains cannot be halved."""
    method = [m for m in refuter.methods if not m.searches][-1]  # in small boxes, slopes matter less than cuts
    scores = np.stack([patch.upper - patch.lower for patch in outcome.left]) if outcome.left else np.zeros((0, 1))
    pending = list(zip(outcome.left, scores, strict=True))
    while pending:
        clock.check()
        if clock.deadline is None and outcome.boxes > MAX_BOXES:
            break
        count = max(1, refuter.batch // 2)
        taken, pending = pending[-count:], pending[:-count]
        if stop([patch for patch, _ in taken]):
            break
        halves = [half for patch, score in taken for half in _halves(refuter, patch, score)]
        if len(halves) < 2 * len(taken):  # a box one float wide that no bound refutes
            break
        outcome.splits += len(taken)
        outcome.boxes += len(halves)
        left, found = refuter.bound(halves, method)
        pending += list(zip(left, found, strict=True))
        outcome.by = method.name
        outcome.left = [patch for patch, _ in pending]
        yield Progress("split", outcome.splits, outcome.splits + len(pending))


def _by_signs(
    refuter: Refuter, outcome: Outcome, clock: Clock, look: Callable[[Subdomain, Tensor], bool], domains: int
) -> Generator[Progress, None, bool]:
    """Refute what is open by branch and bound on the signs of ReLUs; whether it is worth while to go on in parts of a box."""
    total = len(outcome.left)
    for done, patch in enumerate(tuple(outcome.left)):
        found = _divided(refuter, outcome, patch, clock, look, domains)
        if found is None:
            return False
        if found.end == "proved":
            outcome.left = [other for other in outcome.left if other is not patch]
        yield Progress("branch and bound", done + 1, total)
        if found.end != "proved":
            return found.end in ("domains", "memory", "split")
    return False


def _in_turn(
    refuter: Refuter, outcome: Outcome, clock: Clock, look: Callable[[Subdomain, Tensor], bool], domains: int
) -> Iterator[Progress]:
    """Halve what signs alone leave open, and divide each half by signs, depth first, into ``domains`` parts in all at most."""
    method = [m for m in refuter.methods if not m.searches][-1]
    pending = [(patch, patch.upper - patch.lower) for patch in outcome.left]
    while pending and outcome.domains <= domains:
        clock.check()
        patch, cost = pending.pop()
        if not (halves := _halves(refuter, patch, cost)):
            return
        outcome.splits += 1
        outcome.boxes += len(halves)
        for half, cost in zip(*refuter.bound(halves, method), strict=True):
            found = _divided(refuter, outcome, half, clock, look, FEW)
            if found is None or found.end == "falsified":
                return
            if found.end != "proved":
                pending.append((half, cost))
        outcome.left = [patch for patch, _ in pending]
        yield Progress("split", outcome.splits, outcome.splits + len(pending))


def _divided(
    refuter: Refuter,
    outcome: Outcome,
    patch: Subdomain,
    clock: Clock,
    look: Callable[[Subdomain, Tensor], bool],
    domains: int,
) -> Decision | None:
    """One box by branch and bound, of each conjunction its most promising row; None where there is no such row, or node."""
    if not all(refuter.question.cases[patch.case].unsafe[a] for a in patch.open):
        return None  # a conjunction of nothing holds everywhere
    engine, rows = refuter.engine.bounds(COMPLETE), refuter.rows([patch])
    regions = [Box(region.box) for region in refuter.regions([patch])]
    bounds = engine.over(regions)
    at = engine.at_outputs(rows.form(refuter.question.outputs), bounds)
    if len(regions) > 1 or len(at) > 1 or rows.conjunction is None:  # one node is bounded, over one box
        return None
    ((index, form),) = at.items()
    with torch.no_grad():
        least = bounds.lower(at)[:, 0].nan_to_num(-torch.inf)
    own = rows.conjunction[:, 0].cpu().numpy()
    picked = [max(np.flatnonzero(own == i).tolist(), key=lambda k: float(least[k])) for i in range(len(patch.open))]

    def judge(points: Tensor) -> tuple[Tensor, np.ndarray]:
        return points, np.full(len(points), look(patch, points.flatten(1)))

    found = decide(
        bounds,
        LinearForm(form.coeff[picked], form.const[picked]),
        index,
        judge,
        domains=domains,
        room=Room.within(engine.linear.memory, refuter.engine.need(COMPLETE)),
        together=refuter.batch > 1,
        check=clock.check,
        timed=True,
    )
    outcome.domains += found.domains
    outcome.unfinished = found.unfinished(patch.case)
    outcome.timed_out = found.end == "time"
    if found.end == "proved":
        outcome.by = refuter.methods[-1].name
    return found


def _free(refuter: Refuter, patch: Subdomain) -> np.ndarray:
    """Which inputs vary."""
    case = refuter.question.cases[patch.case]
    return np.array([a < b for a, b in zip(case.lower, case.upper, strict=True)])


def _halves(refuter: Refuter, patch: Subdomain, score: np.ndarray) -> list[Subdomain]:
    """Both halves of a patch along the input with the largest sum of two shares: of what inputs cost the bound, and of widths.

    By the cost alone, an input without a coefficient is never cut, though the lines of ReLUs are wide because it is.
    """
    width = np.where(_free(refuter, patch), patch.upper - patch.lower, 0.0)
    score = np.where(width > 0, np.nan_to_num(score), 0.0)
    at = int((score / (score.sum() or 1.0) + FAIR * width / (width.sum() or 1.0)).argmax())
    middle = patch.lower[at] + width[at] / 2
    if not patch.lower[at] < middle < patch.upper[at]:
        return []
    below, above = patch.upper.copy(), patch.lower.copy()
    below[at] = above[at] = middle
    return [replace(patch, upper=below), replace(patch, lower=above)]
