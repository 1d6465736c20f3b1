"""The rungs that bound what is still open, the largest eps first: by linear bounds, in waves, and by branch and bound."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np

from pipeline.certify.attack import Attacked, Predict
from pipeline.certify.prover import Prover
from pipeline.certify.scheduler import Work
from pipeline.certify.verdict_table import VerdictTable
from pipeline.certify.verdicts import Images
from pipeline.core.threat import Ball
from pipeline.progress import Progress

FIRST_WAVE = 32
SENTINELS = 4
"""Falsified samples that every linear rung bounds as well: a proof of one gives the bound away."""


@dataclass(eq=False)
class Rungs:
    """What they work on, and how branch and bound ended."""

    table: VerdictTable
    prover: Prover
    work: Work
    predict: Predict
    images: Images
    labels: np.ndarray
    indices: np.ndarray
    classes: int
    impatient: bool
    """Whether a rung is left, at one eps, with the first wave of samples in which it proves none."""
    divided: dict[str, int] = field(default_factory=dict)

    @property
    def balls(self) -> tuple[Ball, ...]:
        return self.table.balls

    def linear(self, method: str) -> Generator[Progress, None, None]:
        """Bound what is still open, the largest eps first, since its proofs hold for the smaller; nearest to proved first.

        Where ``impatient``, a rung is left with the first wave that it proves nothing in: those behind are further from a proof.
        Waves double in size.
        """
        table, size = self.table, self.prover.batch(method, self.classes)
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level in reversed(range(len(self.balls))):
            ball = self.balls[level]

            def compute(rows: np.ndarray, ball: Ball = ball) -> dict[str, np.ndarray]:
                return {"margins": self.prover.margins(method, ball, rows)}

            broken = self._nearest(level, np.flatnonzero(table.correct & ~table.alive[level]))[:SENTINELS]
            waves = _waves(self._nearest(level, table.open(level)))
            for wave, rows in enumerate(waves):
                cuts = chunks(np.concatenate([broken, rows]) if wave == 0 else rows, size)
                key = f"{method}@{ball.eps}#{wave}"
                results = yield from self.work.units(key, cuts, compute, phase=method, before=done, total=total)
                gained = 0
                for pick, found in zip(cuts, results, strict=True):
                    if found is None:
                        table.skipped[level, pick] = True
                    else:
                        gained += table.bound(method, level, pick, found["margins"])
                        table.looked(method, level, int(table.alive[level, pick].sum()))
                done = min(done + len(rows), total)
                if gained == 0 and self.impatient and None not in results:
                    break
            table.check(self.indices)
        if total:
            yield Progress(method, total, total)

    def complete(self, method: str) -> Generator[Progress, None, None]:
        """Decide what is still open by branch and bound, a sample at a time, as ``linear`` goes through them."""
        table = self.table
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level in reversed(range(len(self.balls))):
            ball, rows = self.balls[level], self._nearest(level, table.open(level))
            guards = set(self._nearest(level, np.flatnonzero(table.correct & ~table.alive[level]))[:SENTINELS].tolist())

            def compute(row: np.ndarray, ball: Ball = ball, guards: set[int] = guards) -> dict[str, np.ndarray]:
                # Of what is falsified already no counterexample is looked for: a proof would give the search away.
                guard = row[0] in guards
                found = self.prover.decided(method, ball, row, None if guard else self.predict)
                broken, label, point = found.end == "falsified", self.labels[row], self.images[row][:0]
                if found.point is not None:
                    point = found.point[None].cpu().numpy()
                    label = self.predict(point).argmax(1)
                margin = np.array([found.margin if found.end == "proved" else np.nan])
                how = {"end": np.array([found.end], np.str_), "margins": margin}
                return how | {"broken": np.array([broken]), "points": point, "labels": label}

            cuts = chunks(np.array([*sorted(guards), *rows], np.int64), 1)
            results = yield from self.work.units(
                f"{method}@{ball.eps}", cuts, compute, phase=method, before=done, total=total
            )
            for pick, found in zip(cuts, results, strict=True):
                if found is None:
                    table.skipped[level, pick] = True
                    continue
                if alive := bool(table.alive[level, pick].all()):
                    end = str(found["end"][0])
                    self.divided[end] = self.divided.get(end, 0) + 1
                table.bound(method, level, pick, found["margins"])
                if found["broken"].any():
                    table.attacked(method, level, pick, Attacked(found["broken"], found["points"], found["labels"]))
                table.looked(method, level, int(alive))
            done += len(rows)
            table.check(self.indices)
        if total:
            yield Progress(method, total, total)

    def _nearest(self, level: int, rows: np.ndarray) -> np.ndarray:
        """Samples by the best margin known, the largest first; those without any come last."""
        margins = np.nan_to_num(self.table.margins[level, rows], nan=-np.inf)
        return rows[np.argsort(-margins, kind="stable")]


def chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in order, so many at once."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _waves(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in order, in waves of 32, 64, 128, ..."""
    waves, size = [], FIRST_WAVE
    while len(rows):
        waves.append(rows[:size])
        rows, size = rows[size:], 2 * size
    return waves
