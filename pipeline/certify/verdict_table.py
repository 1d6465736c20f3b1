"""The state of the ladder: what is known so far of every sample at every eps, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.certify.attack import Attacked
from pipeline.certify.verdicts import DECIDERS, Counterexamples, Images, Layer, Level, RoundingCost, Verdict
from pipeline.choices import Mode
from pipeline.core.threat import Ball
from pipeline.errors import Contradiction


class VerdictTable:
    """Arrays of shape (levels, samples), eps ascending.

    A proof at one eps is one at every smaller eps, a counterexample at one is one at every larger: each is entered once and
    holds wherever it follows.
    """

    def __init__(
        self, balls: Sequence[Ball], predicted: np.ndarray, labels: np.ndarray, *, arithmetic: Mode, attack: bool
    ):
        shape = (len(balls), len(labels))
        self.balls, self.predicted, self.correct = tuple(balls), predicted, predicted == labels
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
        return (self.margins > 0) & (self.arithmetic != "none")

    @property
    def certified(self) -> np.ndarray:
        """Where a margin is positive, the label is right, and an attack, if there is any, was made in vain."""
        return self.proved & self.alive & (self.met | (not self.attack))

    def open(self, level: int) -> np.ndarray:
        """The samples still to be decided at a level: correct, not broken, not proved."""
        return np.flatnonzero(self.alive[level] & ~self.proved[level])

    def looked(self, rung: str, level: int, count: int) -> None:
        """Count the samples that a rung examined."""
        self.examined.setdefault(rung, np.zeros(len(self.balls), int))[level] += count

    def bound(self, rung: str, level: int, rows: np.ndarray, margins: np.ndarray) -> int:
        """Enter lower bounds of margins; how many samples they newly certify at this level."""
        before = self.certified
        found = np.where(np.isfinite(margins), margins, np.nan)
        self.margins[: level + 1, rows] = np.fmax(self.margins[: level + 1, rows], found)
        gained = self.certified & ~before
        self.decided_by[gained] = DECIDERS.index(rung)
        return int(gained[level].sum())

    def attacked(self, rung: str, level: int, rows: np.ndarray, found: Attacked) -> None:
        """Enter an attack and its counterexamples."""
        self.met[level, rows] = True
        broken = rows[found.broken]
        self.met[level:, broken] = True
        fresh = np.zeros_like(self.alive)
        fresh[level:, broken] = self.alive[level:, broken]
        self.alive[fresh] = False
        self.decided_by[fresh] = DECIDERS.index(rung)
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

    def level(self, i: int, layers: tuple[Layer, ...], rounding: RoundingCost | None) -> Level:
        """The outcome at one eps."""
        verdicts = np.full(self.correct.shape, Verdict.UNKNOWN, np.uint8)
        verdicts[self.certified[i]] = Verdict.CERTIFIED
        verdicts[self.correct & ~self.alive[i]] = Verdict.FALSIFIED
        verdicts[~self.correct] = Verdict.MISCLASSIFIED
        unknown = verdicts == Verdict.UNKNOWN
        return Level(
            self.balls[i],
            verdicts,
            self.margins[i],
            self.alive[i] if self.attack else None,
            self.decided_by[i],
            unknown & self.skipped[i],
            {rung: int(count[i]) for rung, count in self.examined.items()},
            layers,
            rounding,
        )

    def counterexamples(self, like: Images) -> Counterexamples:
        """All of them, by sample; ``like`` gives shape and type where there is none."""
        rows = sorted(self._found)
        level, images, labels = zip(*(self._found[r] for r in rows), strict=True) if rows else ((), (), ())
        return Counterexamples(
            np.array(rows, np.int64),
            np.array(level, np.int64),
            np.stack(images) if rows else like[:0].copy(),
            np.array(labels, np.int64),
        )
