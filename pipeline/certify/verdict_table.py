"""The state of the ladder: what is known so far of every sample at every eps, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.certify.attack import Attacked
from pipeline.choices import Mode
from pipeline.core.threat import Ball
from pipeline.errors import Contradiction
from pipeline.methods import DECIDERS
from pipeline.results import Counterexamples, Samples, Verdict


class VerdictTable:
    """Arrays of shape (levels, samples), eps ascending.

    A proof at one eps is one at every smaller eps, a counterexample at one is one at every larger: each is entered once and
    holds wherever it follows.
    """

    def __init__(
        self, balls: Sequence[Ball], predicted: np.ndarray, labels: np.ndarray, *, arithmetic: Mode, attack: bool
    ):
        shape = (len(balls), len(labels))
        self.balls, self.predicted, self.labels, self.correct = tuple(balls), predicted, labels, predicted == labels
        self.arithmetic, self.attack = arithmetic, attack
        self.margins = np.full(shape, np.nan)
        self.alive = np.broadcast_to(self.correct, shape).copy()
        """Correct, and no counterexample is known."""
        self.met = np.zeros(shape, bool)
        """Whether the attack has been made."""
        self.skipped = np.zeros(shape, bool)
        """Whether a budget kept some rung from the sample."""
        self.decided_by = np.where(self.correct, 0, DECIDERS.index("prediction")).astype(np.uint8)
        self.decided_by = np.broadcast_to(self.decided_by, shape).copy()
        self.examined: dict[str, np.ndarray] = {}
        self._found: dict[int, tuple[int, np.ndarray, int]] = {}

    @property
    def proved(self) -> np.ndarray:
        """Where a margin is positive, of whatever sample."""
        return self._proves(self.margins)

    def _proves(self, margins: np.ndarray) -> np.ndarray:
        return (margins > 0) & (self.arithmetic != "none")

    @property
    def certified(self) -> np.ndarray:
        """Where a margin is positive, the label is right, and an attack, if there is any, was made in vain."""
        return self.proved & self.alive & (self.met | (not self.attack))

    def open(self, level: int) -> np.ndarray:
        """The samples still to be decided at a level: correct, not broken, not proved."""
        return np.flatnonzero(self.alive[level] & ~self._proves(self.margins[level]))

    def looked(self, rung: str, level: int, count: int) -> None:
        """Count the samples that a rung examined."""
        self.examined.setdefault(rung, np.zeros(len(self.balls), int))[level] += count

    def bound(self, rung: str, level: int, rows: np.ndarray, margins: np.ndarray) -> int:
        """Enter lower bounds of the margins of ``rows``, each named once; how many it newly certifies at this level."""
        here = np.s_[: level + 1, rows]
        before, found = self.margins[here], np.where(np.isfinite(margins), margins, np.nan)
        self.margins[here] = after = np.fmax(before, found)
        # What an attack, still to come, may leave standing.
        fresh = self._proves(after) & ~self._proves(before) & self.alive[here]
        self.decided_by[here] = np.where(fresh, DECIDERS.index(rung), self.decided_by[here])
        return int((fresh[level] & (self.met[level, rows] | (not self.attack))).sum())

    def attacked(self, rung: str, level: int, rows: np.ndarray, found: Attacked) -> None:
        """Enter an attack on ``rows`` and its counterexamples."""
        self.met[level, rows] = True
        broken = rows[found.broken]
        here = np.s_[level:, broken]
        self.met[here] = True
        self.decided_by[here] = np.where(self.alive[here], DECIDERS.index(rung), self.decided_by[here])
        self.alive[here] = False
        for row, point, label in zip(broken, found.points, found.labels[found.broken], strict=True):
            self._found.setdefault(int(row), (level, point, int(label)))

    def check(self, indices: np.ndarray) -> None:
        """Raise Contradiction naming the samples whose proof something else refutes."""
        broken = self.proved & self.correct & ~self.alive
        # In real arithmetic alone, the file may round its way to another label: that is what the default mode is for.
        wrong = self.proved & ~self.correct & (self.arithmetic == "float32-any-order")
        for clash, what in ((broken, "an attack changed its label"), (wrong, "the file gives it another label")):
            for level in np.flatnonzero(clash.any(1)):
                named = ", ".join(str(i) for i in indices[clash[level]][:10])
                raise Contradiction(
                    f"{int(clash[level].sum())} samples were proved at eps {self.balls[level].eps}, and {what} (samples "
                    f"{named}). One of the two is wrong, so nothing is reported as certified; please report this with the model."
                )

    def samples(self, indices: np.ndarray, *, cut: bool, largest: np.ndarray | None = None) -> Samples:
        """The verdicts. ``cut``: a budget left something out."""
        correct = np.broadcast_to(self.correct, self.margins.shape)
        verdict = np.full(self.margins.shape, Verdict.UNKNOWN, np.uint8)
        verdict[self.certified] = Verdict.CERTIFIED
        verdict[correct & ~self.alive] = Verdict.FALSIFIED
        verdict[~correct] = Verdict.MISCLASSIFIED
        return Samples(
            eps=tuple(str(ball.eps) for ball in self.balls),
            index=indices.astype(np.int64),
            label=self.labels.astype(np.int64),
            predicted=self.predicted,
            verdict=verdict,
            margin_lower=self.margins,
            survived=self.alive if self.attack else None,
            undecided=(verdict == Verdict.UNKNOWN) & self.skipped if cut else None,
            decided_by=np.where(verdict == Verdict.UNKNOWN, 0, self.decided_by).astype(np.uint8),
            largest_eps=largest,
            counterexamples=self._counterexamples(indices) if self._found else None,
        )

    def rungs(self, level: int) -> tuple[tuple[str, int], ...]:
        """Each rung that looked at samples at a level, and at how many, in the order of DECIDERS."""
        return tuple((name, int(self.examined[name][level])) for name in DECIDERS if name in self.examined)

    def _counterexamples(self, indices: np.ndarray) -> Counterexamples:
        rows = sorted(self._found)
        level, images, labels = zip(*(self._found[r] for r in rows), strict=True)
        return Counterexamples(
            index=indices[rows].astype(np.int64),
            eps=np.array([str(self.balls[i].eps) for i in level], dtype=np.str_),
            image=np.stack(images),
            predicted=np.array(labels, np.int64),
        )
