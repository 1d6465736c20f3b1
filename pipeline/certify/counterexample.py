"""The search for a counterexample to a property, and the judge that confirms it.

It is the attack on samples (``attack.py``): it descends on the largest row of a conjunction, and from every second start on
the sum of the positive parts of its rows. A point that it finds is a candidate; ``confirm`` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.attack import PGD, descend, uniform
from pipeline.certify.attack_objective import AttackObjective
from pipeline.certify.space import Space
from pipeline.certify.subdomain import Constraints, Subdomain
from pipeline.certify.witness import Witness, check
from pipeline.core.network import Network
from pipeline.errors import Contradiction
from pipeline.system.clock import Clock, OutOfTime
from pipeline.vnnlib import Case, Property, above32, below32, nearest32

Confirm = Callable[[int, np.ndarray], Witness | None]
"""``confirm(case, point)``: the witness, if a flat float32 point is a counterexample of that case in the delivered file."""
NEAR = 1e-5
"""Candidates this close to the unsafe set, relative to the outputs, are confirmed by the file's own runtime."""
CANDIDATES = 4
"""How many candidates of one step, the best first, are confirmed at most."""
PROBE_STEPS = 6
"""Steps of the search in a subdomain that is about to be halved."""

LONG = PGD(steps=50, restarts=6, step=0.5, last=0.01)
"""The usual search: from the centre of a box, from a corner, then from random points."""


class _Counterexample(Exception):
    """Ends a descent at the first counterexample."""


class Falsifier:
    """Searches for a point of a case at which a conjunction of the unsafe set holds.

    Each pair of case and conjunction is one sample of a batch. ``found`` is the first witness, or None.
    """

    def __init__(self, network: Network, question: Property, settings: PGD, confirm: Confirm, *, batch: int = 256):
        self.question, self.settings, self.confirm, self.batch = question, settings, confirm, batch
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.objective, self.constraints = AttackObjective.outputs(network), Constraints(question, nearest=True)
        self.ends = lru_cache(1 << 10)(self._ends)
        self.found: Witness | None = None

    def search(
        self, clock: Clock, *, starts: Sequence[int] | None = None, among: Sequence[Subdomain] | None = None
    ) -> Witness | None:
        """The first counterexample, or None once every start has been tried or the time is over.

        ``among`` restricts the search to the cases and conjunctions that are open in these subdomains.
        """
        whole = [(i, a) for i, case in enumerate(self.question.cases) for a in range(len(case.unsafe))]
        targets = (
            whole if among is None else sorted({(subdomain.case, a) for subdomain in among for a in subdomain.open})
        )
        parts = [targets[at : at + self.batch] for at in range(0, len(targets), self.batch)]
        with suppress(OutOfTime):
            for start in range(self.settings.restarts) if starts is None else starts:
                for part in parts:
                    self._descend([self._target(*target) for target in part], start, self.settings, clock)
                    if self.found is not None:
                        return self.found
        return None

    def probe(self, subdomains: Sequence[Subdomain], clock: Clock) -> Witness | None:
        """A few steps from the centre of every subdomain: where a proof fails, there may be a counterexample."""
        return self._descend(_each(subdomains), 0, replace(self.settings, steps=PROBE_STEPS), clock)

    def at(self, subdomain: Subdomain, points: Tensor) -> Witness | None:
        """The witness, if one of these points of a subdomain is a counterexample; ``points``: (n, inputs)."""
        each = [target for target in _each([subdomain]) for _ in points]
        space = self._space(each)
        starts = space.project(points.to(space.low).repeat(len(subdomain.open), 1))
        return self._descend(each, 0, replace(self.settings, steps=0), Clock(), starts)

    def _descend(
        self, targets: Sequence[Subdomain], start: int, settings: PGD, clock: Clock, points: Tensor | None = None
    ) -> Witness | None:
        """Descend in each subdomain, of one conjunction each, from start number ``start`` or from the given points."""
        space, rows = self._space(targets), self.constraints(targets).to(self.device)

        def judge(at: Tensor, points: Tensor, least: Tensor) -> np.ndarray:
            for i in least.argsort()[:CANDIDATES].tolist():
                self.found = self.confirm(targets[int(at[i])].case, points[i].cpu().numpy())
                if self.found is not None:
                    raise _Counterexample
            return np.zeros(len(at), bool)

        points = space.start(self._draws(start, targets, space.low)) if points is None else points
        joint = start % 2 == 1  # descends on several constraints at once
        with suppress(_Counterexample):
            descend(self.objective, rows, space, points, settings, judge, near=NEAR, joint=joint, check=clock.check)
        return self.found

    def _draws(self, start: int, targets: Sequence[Subdomain], like: Tensor) -> Tensor:
        if start == 0:
            return torch.full_like(like, 0.5)
        draws = uniform(like.shape[1:], [(self.settings.seed, start, t.case, *t.open) for t in targets]).to(like)
        return draws.round() if start == 1 else draws

    def _target(self, case: int, conjunction: int) -> Subdomain:
        return Subdomain(case, *self.ends(case), (conjunction,))

    def _space(self, targets: Sequence[Subdomain]) -> Space:
        """The float32 points of the subdomains that are points of their cases."""
        low, high, lower, upper = (
            torch.from_numpy(np.stack(ends)).to(self.device, torch.float32)
            for ends in (
                *zip(*(self.ends(t.case) for t in targets), strict=True),
                [t.lower for t in targets],
                [t.upper for t in targets],
            )
        )
        low, high = lower.clamp(low, high), upper.clamp(low, high)
        return Space(low, high, (high - low) / 2)

    def _ends(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest float32 of a box; where it holds none, the one that its lower end rounds to."""
        case = self.question.cases[index]
        ends = ((above32(a), below32(b)) for a, b in zip(case.lower, case.upper, strict=True))
        pairs = [(a, b) if a <= b else (nearest32(v),) * 2 for (a, b), v in zip(ends, case.lower, strict=True)]
        low, high = np.array(pairs, np.float32).T
        return low, high


def _each(subdomains: Sequence[Subdomain]) -> list[Subdomain]:
    """A subdomain for each open conjunction of each subdomain."""
    return [replace(subdomain, open=(a,)) for subdomain in subdomains for a in subdomain.open]


class Judge:
    """Confirms counterexamples: first by our reading of the property, then by the independent one (``witness.py``).

    Called with the number of a case and a flat float32 point, it returns the witness, or None. It raises Contradiction (5)
    where the two readings disagree.
    """

    def __init__(self, question: Property, text: str, run: Callable[[np.ndarray], np.ndarray]):
        """``text`` is the property as written; ``run`` gives the delivered file's outputs for one flat input."""
        self.question, self.text, self.run = question, text, run

    def __call__(self, index: int, point: np.ndarray) -> Witness | None:
        case = self.question.cases[index]
        y = self.run(point)
        if not np.isfinite(y).all() or not _unsafe(case, exactly(y)):
            return None
        # Where a box holds no float32, the exact input is the real point of the box that rounds to this one.
        ends = zip(point, case.lower, case.upper, strict=True)
        witness = check(self.text, [min(max(Fraction(float(p)), a), b) for p, a, b in ends], self.run)
        if (witness.point == point).all() and witness.refused is None:
            return witness
        if self.question.contains_more:
            return None  # a point that a strict bound, or a constraint without a box, excludes
        raise Contradiction(
            f"Two independent readings of the property disagree about a counterexample: {witness.refused or 'another point'}. "
            "Please report this with the property."
        )


def _unsafe(case: Case, y: Sequence[Fraction]) -> bool:
    def holds(terms: Sequence[tuple[int, Fraction]], bound: Fraction, strict: bool) -> bool:
        value = sum((c * y[j] for j, c in terms), Fraction(0))
        return value < bound if strict else value <= bound

    return any(all(holds(c.terms, c.bound, c.strict) for c in conjunction) for conjunction in case.unsafe)


def exactly(y: np.ndarray) -> list[Fraction]:
    """The exact values of floats."""
    return [Fraction(float(v)) for v in y]
