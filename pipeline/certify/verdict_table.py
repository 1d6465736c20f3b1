"""The state of the ladder: what is known of every sample at every eps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.certify.attack import AttackResult
from pipeline.choices import Mode
from pipeline.core.threat import Ball
from pipeline.errors import Contradiction
from pipeline.methods import DECIDERS
from pipeline.results import Counterexamples, Samples, Verdict


class VerdictTable:
    """Arrays of shape (levels, samples), eps ascending.

    A proof at one eps holds at every smaller eps, a counterexample at every larger one: each is entered once, and all entries
    that follow from it are set.
    """

    def __init__(
        self, balls: Sequence[Ball], predicted: np.ndarray, labels: np.ndarray, *, arithmetic: Mode, attack: bool
    ):
        shape = (len(balls), len(labels))
        self.balls, self.predicted, self.labels, self.correct = tuple(balls), predicted, labels, predicted == labels
        self.arithmetic, self.attack = arithmetic, attack
        self.margins = np.full(shape, np.nan)
        self.alive = np.broadcast_to(self.correct, shape).copy()
        """Whether the sample is classified correctly and no counterexample is known."""
        self.attack_done = np.zeros(shape, bool)
        """Whether the sample has been attacked."""
        self.skipped = np.zeros(shape, bool)
        """Whether some rung was skipped because of a budget."""
        self.decided_by = np.where(self.correct, 0, DECIDERS.index("prediction")).astype(np.uint8)
        self.decided_by = np.broadcast_to(self.decided_by, shape).copy()
        self.examined: dict[str, np.ndarray] = {}
        """By rung, how many samples it examined at each level."""
        self._broken: dict[int, tuple[int, np.ndarray, int]] = {}
        """By row, the first counterexample: its level, point and label."""

    @property
    def proved(self) -> np.ndarray:
        """Where the bound of the margin is positive, of misclassified samples too."""
        return self._proves(self.margins)

    def _proves(self, margins: np.ndarray) -> np.ndarray:
        return (margins > 0) & (self.arithmetic != "none")

    @property
    def certified(self) -> np.ndarray:
        """Where the bound is positive, the label is right, and the attack, if there is one, found no counterexample."""
        return self.proved & self.alive & (self.attack_done | (not self.attack))

    def open(self, level: int) -> np.ndarray:
        """The rows that are undecided at a level: correct, without counterexample or proof."""
        return np.flatnonzero(self.alive[level] & ~self._proves(self.margins[level]))

    def count_examined(self, rung: str, level: int, count: int) -> None:
        """Add to the number of samples that a rung examined at a level."""
        self.examined.setdefault(rung, np.zeros(len(self.balls), int))[level] += count

    def enter_bounds(self, rung: str, level: int, rows: np.ndarray, margins: np.ndarray) -> int:
        """Enter lower bounds of the margins of distinct ``rows``; returns how many are newly certified at this level."""
        here = np.s_[: level + 1, rows]
        before, finite = self.margins[here], np.where(np.isfinite(margins), margins, np.nan)
        self.margins[here] = after = np.fmax(before, finite)
        # Whether or not the attack has been made: one that is still to come may break the sample.
        fresh = self._proves(after) & ~self._proves(before) & self.alive[here]
        self.decided_by[here] = np.where(fresh, DECIDERS.index(rung), self.decided_by[here])
        return int((fresh[level] & (self.attack_done[level, rows] | (not self.attack))).sum())

    def enter_attack(self, rung: str, level: int, rows: np.ndarray, result: AttackResult) -> None:
        """Enter an attack on ``rows`` and its counterexamples."""
        self.attack_done[level, rows] = True
        broken = rows[result.broken]
        here = np.s_[level:, broken]
        self.attack_done[here] = True
        self.decided_by[here] = np.where(self.alive[here], DECIDERS.index(rung), self.decided_by[here])
        self.alive[here] = False
        for row, point, label in zip(broken, result.points, result.labels[result.broken], strict=True):
            self._broken.setdefault(int(row), (level, point, int(label)))

    def check(self, indices: np.ndarray) -> None:
        """Raise Contradiction (5), naming the samples, where a sample is proved and yet broken or misclassified."""
        broken = self.proved & self.correct & ~self.alive
        # A proof in real arithmetic does not exclude that the file's rounding gives the sample another label.
        wrong = self.proved & ~self.correct & (self.arithmetic == "float32-any-order")
        for clash, what in ((broken, "an attack changed its label"), (wrong, "the file gives it another label")):
            for level in np.flatnonzero(clash.any(1)):
                named = ", ".join(str(i) for i in indices[clash[level]][:10])
                raise Contradiction(
                    f"{int(clash[level].sum())} samples were proved at eps {self.balls[level].eps}, and {what} (samples "
                    f"{named}). One of the two is wrong, so nothing is reported as certified; please report this with the model."
                )

    def samples(self, indices: np.ndarray, *, incomplete: bool, largest: np.ndarray | None = None) -> Samples:
        """The verdicts by sample. ``incomplete``: a budget left units out."""
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
            undecided=(verdict == Verdict.UNKNOWN) & self.skipped if incomplete else None,
            decided_by=np.where(verdict == Verdict.UNKNOWN, 0, self.decided_by).astype(np.uint8),
            largest_eps=largest,
            counterexamples=self._counterexamples(indices) if self._broken else None,
        )

    def rungs(self, level: int) -> tuple[tuple[str, int], ...]:
        """Each rung that examined samples at a level, and how many, in the order of DECIDERS."""
        return tuple((name, int(self.examined[name][level])) for name in DECIDERS if name in self.examined)

    def _counterexamples(self, indices: np.ndarray) -> Counterexamples:
        rows = sorted(self._broken)
        level, images, labels = zip(*(self._broken[r] for r in rows), strict=True)
        return Counterexamples(
            index=indices[rows].astype(np.int64),
            eps=np.array([str(self.balls[i].eps) for i in level], dtype=np.str_),
            image=np.stack(images),
            predicted=np.array(labels, np.int64),
        )
