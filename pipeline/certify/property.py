"""Proofs of properties: every box of an unsafe set is refuted by the cheapest sufficient method, divided where necessary.

An open box of few dimensions is halved along the input where the linear bound loses most, ``|coefficient| * width`` (the "smart
branching" of Xu et al., arXiv 2011.13824), or where the box is widest. A box of more dimensions is divided by the signs of
ReLUs (``complete.py``), and up to ``MIXED_INPUTS`` dimensions by inputs and signs alternately.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.complete import decide
from pipeline.certify.decision import Decision, Room
from pipeline.certify.refuter import Refuter
from pipeline.certify.subdomain import Subdomain, halves_of, whole
from pipeline.core.linear_form import LinearForm
from pipeline.core.threat import Box
from pipeline.methods import COMPLETE, IBP, BoundingMethod
from pipeline.progress import Progress
from pipeline.results import Unfinished
from pipeline.system.clock import Clock, OutOfTime
from pipeline.vnnlib import Property

SPLIT_INPUTS = 8
"""Boxes are halved along inputs alone where at most this many inputs vary: in more dimensions that takes too many boxes."""
MIXED_INPUTS, FIRST_DOMAINS, HALF_DOMAINS = 32, 1_000, 64
"""A box of at most ``MIXED_INPUTS`` varying inputs is first divided into ``FIRST_DOMAINS`` domains by signs; if that is not
enough it is halved along inputs too, with ``HALF_DOMAINS`` domains for each half."""
MAX_BOXES = 1 << 17
"""How many boxes are bounded at most where there is no time budget."""


@dataclass
class Outcome:
    """How a proof ended: the ``open`` subdomains, how many ``boxes`` were bounded, and ``by`` which most expensive method."""

    open: list[Subdomain]
    boxes: int = 0
    by: str = IBP
    splits: int = 0
    domains: int = 0
    """Into how many domains boxes were divided by the signs of ReLUs."""
    timed_out: bool = False
    unfinished: Unfinished | None = None
    """Why branch and bound left its first open box undecided."""

    @classmethod
    def before(cls, question: Property) -> Outcome:
        """The outcome before any work: every case is open."""
        return cls([whole(i, case) for i, case in enumerate(question.cases)])


def prove(
    refuter: Refuter,
    clock: Clock,
    *,
    split: bool = True,
    stop: Callable[[Sequence[Subdomain]], bool] = lambda subdomains: False,
    try_points: Callable[[Subdomain, Tensor], bool] = lambda subdomain, points: False,
    domains: int = MAX_BOXES,
) -> Generator[Progress, None, Outcome]:
    """Refute every case; the return value is the outcome.

    ``stop`` is given the subdomains that are about to be halved, ``try_points`` points at which a bound is least; the proof ends
    where either returns True. A box is divided by the signs of ReLUs into at most ``domains`` domains.
    """
    outcome = Outcome.before(refuter.question)
    refuter.engine.check = clock.check
    try:
        refuter.fit()
        for method in refuter.methods:
            outcome.open = yield from _bound_all(refuter, outcome, method, clock)
            if not outcome.open:
                break
        if split and all(_varying(refuter, subdomain).sum() <= SPLIT_INPUTS for subdomain in outcome.open):
            yield from _split_inputs(refuter, outcome, clock, stop)
        elif split:
            mixed = all(_varying(refuter, subdomain).sum() <= MIXED_INPUTS for subdomain in outcome.open)
            more = yield from _split_signs(
                refuter, outcome, clock, try_points, min(domains, FIRST_DOMAINS) if mixed else domains
            )
            if mixed and more:
                yield from _split_both(refuter, outcome, clock, try_points, domains)
    except OutOfTime:
        outcome.timed_out = True
    return outcome


def _bound_all(
    refuter: Refuter, outcome: Outcome, method: BoundingMethod, clock: Clock
) -> Generator[Progress, None, list[Subdomain]]:
    """Bound all open subdomains by one method; returns those that stay open."""
    subdomains = outcome.open
    left: list[Subdomain] = []
    for start in range(0, len(subdomains), refuter.batch):
        clock.check()
        part, _ = refuter.bound(subdomains[start : start + refuter.batch], method)
        outcome.boxes += min(refuter.batch, len(subdomains) - start)
        if len(part) < len(subdomains[start : start + refuter.batch]):
            outcome.by = method.name
        left += part
        yield Progress(method.name, min(start + refuter.batch, len(subdomains)), len(subdomains))
    return left


def _split_inputs(
    refuter: Refuter, outcome: Outcome, clock: Clock, stop: Callable[[Sequence[Subdomain]], bool]
) -> Iterator[Progress]:
    """Halve open subdomains along inputs, depth first, until none is open or one cannot be halved."""
    method = [m for m in refuter.methods if not m.searches][-1]  # in small boxes, slopes matter less than halving
    scores = (
        np.stack([subdomain.upper - subdomain.lower for subdomain in outcome.open])
        if outcome.open
        else np.zeros((0, 1))
    )
    pending = list(zip(outcome.open, scores, strict=True))
    while pending:
        clock.check()
        if clock.deadline is None and outcome.boxes > MAX_BOXES:
            break
        count = max(1, refuter.batch // 2)
        batch, pending = pending[-count:], pending[:-count]
        if stop([subdomain for subdomain, _ in batch]):
            break
        halves = [
            half for subdomain, score in batch for half in halves_of(subdomain, _varying(refuter, subdomain), score)
        ]
        if len(halves) < 2 * len(batch):  # a box one float wide that no bound refutes
            break
        outcome.splits += len(batch)
        outcome.boxes += len(halves)
        open_halves, costs = refuter.bound(halves, method)
        pending += list(zip(open_halves, costs, strict=True))
        outcome.by = method.name
        outcome.open = [subdomain for subdomain, _ in pending]
        yield Progress("split", outcome.splits, outcome.splits + len(pending))


def _split_signs(
    refuter: Refuter, outcome: Outcome, clock: Clock, try_points: Callable[[Subdomain, Tensor], bool], domains: int
) -> Generator[Progress, None, bool]:
    """Refute open subdomains by branch and bound on the signs of ReLUs; returns whether halving inputs may still help."""
    total = len(outcome.open)
    for done, subdomain in enumerate(tuple(outcome.open)):
        decision = _branch_and_bound(refuter, outcome, subdomain, clock, try_points, domains)
        if decision is None:
            return False
        if decision.end == "proved":
            outcome.open = [other for other in outcome.open if other is not subdomain]
        yield Progress("branch and bound", done + 1, total)
        if decision.end != "proved":
            return decision.end in ("domains", "memory", "split")
    return False


def _split_both(
    refuter: Refuter, outcome: Outcome, clock: Clock, try_points: Callable[[Subdomain, Tensor], bool], domains: int
) -> Iterator[Progress]:
    """Halve open subdomains along inputs and divide each half by signs, depth first, into at most ``domains`` domains in all."""
    method = [m for m in refuter.methods if not m.searches][-1]
    pending = [(subdomain, subdomain.upper - subdomain.lower) for subdomain in outcome.open]
    while pending and outcome.domains <= domains:
        clock.check()
        subdomain, cost = pending.pop()
        if not (halves := halves_of(subdomain, _varying(refuter, subdomain), cost)):
            return
        outcome.splits += 1
        outcome.boxes += len(halves)
        for half, cost in zip(*refuter.bound(halves, method), strict=True):
            decision = _branch_and_bound(refuter, outcome, half, clock, try_points, HALF_DOMAINS)
            if decision is None or decision.end == "falsified":
                return
            if decision.end != "proved":
                pending.append((half, cost))
        outcome.open = [subdomain for subdomain, _ in pending]
        yield Progress("split", outcome.splits, outcome.splits + len(pending))


def _branch_and_bound(
    refuter: Refuter,
    outcome: Outcome,
    subdomain: Subdomain,
    clock: Clock,
    try_points: Callable[[Subdomain, Tensor], bool],
    domains: int,
) -> Decision | None:
    """Branch and bound on one box, by the row with the best bound of each conjunction; None where a conjunction has no row, or
    the rows are not forms over one node and one input.
    """
    if not all(refuter.question.cases[subdomain.case].unsafe[a] for a in subdomain.open):
        return None  # an empty conjunction holds everywhere
    engine, rows = refuter.engine.bounds(COMPLETE), refuter.rows([subdomain])
    regions = [Box(region.box) for region in refuter.regions([subdomain])]
    bounds = engine.over(regions)
    at = engine.at_outputs(rows.form(refuter.question.outputs), bounds)
    if len(regions) > 1 or len(at) > 1 or rows.conjunction is None:  # one node is bounded, over one box
        return None
    ((index, form),) = at.items()
    with torch.no_grad():
        least = bounds.lower(at)[:, 0].nan_to_num(-torch.inf)
    own = rows.conjunction[:, 0].cpu().numpy()
    best = [max(np.flatnonzero(own == i).tolist(), key=lambda k: float(least[k])) for i in range(len(subdomain.open))]

    def judge(points: Tensor) -> tuple[Tensor, np.ndarray]:
        return points, np.full(len(points), try_points(subdomain, points.flatten(1)))

    decision = decide(
        bounds,
        LinearForm(form.coeff[best], form.const[best]),
        index,
        judge,
        domains=domains,
        room=Room.within(engine.linear.memory, refuter.engine.need(COMPLETE)),
        together=refuter.batch > 1,
        check=clock.check,
        timed=True,
    )
    outcome.domains += decision.domains
    outcome.unfinished = decision.unfinished(subdomain.case)
    outcome.timed_out = decision.end == "time"
    if decision.end == "proved":
        outcome.by = refuter.methods[-1].name
    return decision


def _varying(refuter: Refuter, subdomain: Subdomain) -> np.ndarray:
    """A mask of the inputs that vary over the subdomain's case: (inputs,)."""
    case = refuter.question.cases[subdomain.case]
    return np.array([a < b for a, b in zip(case.lower, case.upper, strict=True)])
