"""The search for a counterexample to a property: projected gradient descent on how far a point is from the unsafe set.

For a conjunction of ``c_k.y <= t_k`` the distance is ``max_k (c_k.y - t_k)`` (Madry et al., arXiv 1706.06083, with this loss),
in every second start ``sum_k max(0, c_k.y - t_k)``, which moves on several constraints at once. What it finds is a candidate:
``confirm`` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.certify.boxes import Subdomain, inputs_of, outputs_of
from pipeline.certify.witness import Witness, check
from pipeline.core.network import Network
from pipeline.errors import Contradiction
from pipeline.system.clock import Clock, OutOfTime
from pipeline.vnnlib import Case, Property, above32, below32, nearest32

Confirm = Callable[[int, np.ndarray], Witness | None]
"""Whether a flat float32 point, meant for that case, is a counterexample in the delivered file."""
NEAR = 1e-5
"""Candidates this close to the unsafe set, relative to the outputs, are worth a look by the file's own runtime."""
LOOKS = 4
PROBING = 6
"""Steps inside a patch that is about to be halved."""


@dataclass(frozen=True)
class Descent:
    """``steps`` sign steps from each of ``starts`` points (the centre, a corner, then random points).

    A step covers ``first`` of the box's width and the last one ``last`` of it, falling geometrically.
    """

    steps: int = 50
    starts: int = 6
    first: float = 0.25
    last: float = 0.005
    seed: int = 0


class Falsifier:
    """Looks for a point of some case at which some conjunction holds."""

    def __init__(self, network: Network, question: Property, descent: Descent, confirm: Confirm, *, batch: int = 256):
        self.network, self.question, self.descent, self.confirm = network, question, descent, confirm
        self.batch = batch
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.shapes = [tuple(d or 1 for d in port.shape[1:]) for port in network.inputs]
        self.ends = lru_cache(1 << 10)(self._ends)

    def search(
        self, clock: Clock, *, starts: Sequence[int] | None = None, among: Sequence[Subdomain] | None = None
    ) -> Witness | None:
        """The first counterexample, or None once every start has been tried or the time is over.

        ``among`` leaves only the cases and conjunctions that are open in these patches.
        """
        whole = [(i, a) for i, case in enumerate(self.question.cases) for a in range(len(case.unsafe))]
        targets = whole if among is None else sorted({(patch.case, a) for patch in among for a in patch.open})
        try:
            for start in range(self.descent.starts) if starts is None else starts:
                for at in range(0, len(targets), self.batch):
                    some = targets[at : at + self.batch]
                    found = self._descend(some, *self._boxes(some), start, self.descent.steps, clock)
                    if found is not None:
                        return found
        except OutOfTime:
            pass
        return None

    def probe(self, patches: Sequence[Subdomain], clock: Clock) -> Witness | None:
        """A few steps from the centre of every patch: where a proof fails, there may be a counterexample."""
        pairs = [(patch, a) for patch in patches for a in patch.open]
        targets = [(patch.case, a) for patch, a in pairs]
        low, high = self._boxes(targets)
        lower = torch.from_numpy(np.stack([patch.lower for patch, _ in pairs])).to(low)
        upper = torch.from_numpy(np.stack([patch.upper for patch, _ in pairs])).to(low)
        low, high = lower.clamp(low, high), upper.clamp(low, high)
        return self._descend(targets, low, high, 0, PROBING, clock)

    def at(self, patch: Subdomain, points: Tensor) -> Witness | None:
        """Whether one of some points of a patch is a counterexample."""
        targets = [(patch.case, a) for a in patch.open for _ in range(len(points))]
        low, high = self._boxes(targets)
        tried = torch.minimum(torch.maximum(points.to(low).repeat(len(patch.open), 1), low), high)
        with torch.no_grad():
            distance, size = self._distance(tried, *self._constraints(targets))
        return self._look(tried, targets, distance.amax(1), size)

    def _descend(
        self, targets: Sequence[tuple[int, int]], low: Tensor, high: Tensor, start: int, steps: int, clock: Clock
    ) -> Witness | None:
        constraints = self._constraints(targets)
        points = low + self._start(start, targets, low) * (high - low)
        for step in range(steps + 1):
            clock.check()
            points = torch.minimum(torch.maximum(points, low), high).detach().requires_grad_()
            distance, size = self._distance(points, *constraints)
            found = self._look(points.detach(), targets, distance.detach().amax(1), size.detach())
            if found is not None or step == steps:
                return found
            loss = distance.amax(1) if start % 2 == 0 else distance.clamp(min=0).sum(1)
            if not loss.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(loss.sum(), points, allow_unused=True)
            if gradient is None or not bool(gradient.any()):
                return None  # behind a step function nothing moves, and another start costs less
            share = self.descent.first * (self.descent.last / self.descent.first) ** (step / steps)
            points = points.detach() - share * (high - low) * gradient.sign()
        return None

    def _distance(self, points: Tensor, coeff: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        """``c_k.y - t_k`` for every point and constraint, and the size of the outputs."""
        free = self.network.inputs[0].shape[0] is None
        parts = [points] if free else list(points.split(1))
        ys = [torch.cat([y.flatten(1) for y in outputs_of(self.network, inputs_of(p, self.shapes))], 1) for p in parts]
        y = torch.cat(ys)
        return torch.einsum("bko,bo->bk", coeff, y) - bound, y.abs().amax(1)

    def _look(
        self, points: Tensor, targets: Sequence[tuple[int, int]], distance: Tensor, size: Tensor
    ) -> Witness | None:
        near = (distance <= NEAR * size).nonzero().flatten().tolist()
        for b in sorted(near, key=lambda b: float(distance[b]))[:LOOKS]:
            witness = self.confirm(targets[b][0], points[b].cpu().numpy())
            if witness is not None:
                return witness
        return None

    def _start(self, start: int, targets: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        if start == 0:
            return torch.full_like(like, 0.5)
        draws = np.stack(
            [np.random.default_rng((self.descent.seed, start, *t)).random(like.shape[1], np.float32) for t in targets]
        )
        drawn = torch.from_numpy(draws).to(like)
        return drawn.round() if start == 1 else drawn

    def _boxes(self, targets: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        ends = [self.ends(case) for case, _ in targets]
        low, high = (torch.from_numpy(np.stack([e[i] for e in ends])).to(self.device) for i in range(2))
        return low, high

    def _ends(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The least and greatest float32 of a box; where it holds none, the one that its lower end becomes."""
        case = self.question.cases[index]
        ends: Iterator[tuple[float, float]] = (
            (above32(a), below32(b)) for a, b in zip(case.lower, case.upper, strict=True)
        )
        kept = [(a, b) if a <= b else (nearest32(v),) * 2 for (a, b), v in zip(ends, case.lower, strict=True)]
        low, high = np.array(kept, np.float32).T
        return low, high

    def _constraints(self, targets: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        wanted = [self.question.cases[case].unsafe[a] for case, a in targets]
        rows = max(1, *map(len, wanted))
        coeff = np.zeros((len(targets), rows, self.question.outputs), np.float32)
        bound = np.full((len(targets), rows), np.inf, np.float32)
        for b, conjunction in enumerate(wanted):
            for k, constraint in enumerate(conjunction):
                for j, c in constraint.terms:
                    coeff[b, k, j] = float(c)
                bound[b, k] = np.clip(float(constraint.bound), -3e38, 3e38)
        return torch.from_numpy(coeff).to(self.device), torch.from_numpy(bound).to(self.device)


class Judge:
    """Whether a float32 point is a counterexample: by our reading of the property, and then by the independent one."""

    def __init__(self, question: Property, text: str, run: Callable[[np.ndarray], np.ndarray]):
        """``run`` gives the delivered file's outputs for one flat input."""
        self.question, self.text, self.run = question, text, run

    def __call__(self, index: int, point: np.ndarray) -> Witness | None:
        case = self.question.cases[index]
        y = self.run(point)
        if not np.isfinite(y).all() or not _unsafe(case, exactly(y)):
            return None
        # Where a box holds no float32, the exact input is the real point of it that becomes this one.
        ends = zip(point, case.lower, case.upper, strict=True)
        witness = check(self.text, [min(max(Fraction(float(p)), a), b) for p, a, b in ends], self.run)
        if (witness.point == point).all() and witness.refused is None:
            return witness
        if self.question.open_ends:
            return None  # a point on a side that a strict bound leaves out
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
    """The numbers that floats are."""
    return [Fraction(float(v)) for v in y]
