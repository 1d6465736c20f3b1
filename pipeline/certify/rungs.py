"""The rungs that bound what is still open, the largest eps first: by linear bounds, in waves, and by branch and bound."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.certify.attack import Attacked, Predict
from pipeline.certify.journal import Arrays
from pipeline.certify.prover import Prover
from pipeline.certify.scheduler import Work
from pipeline.certify.verdict_table import VerdictTable
from pipeline.certify.verdicts import Images
from pipeline.core.threat import Ball
from pipeline.methods import METHODS
from pipeline.progress import Progress
from pipeline.results import Unfinished
from pipeline.results.blocks import Rows, by_block

FIRST_WAVE, GROWTH = 2, 4
"""Samples of a block that a rung is tried on at first, and how many times more each time after."""


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
    blocks: Sequence[Rows]
    reach: np.ndarray
    """The margin of each sample itself: a bound further below zero than this above it is none to go on from."""
    impatient: bool
    """Whether a rung is left, in one block and at one eps, with a wave of samples in which it proves none."""
    _left: list[dict[int, Unfinished]] = field(init=False)
    """By level, why branch and bound did not decide a row."""

    def __post_init__(self) -> None:
        self._left = [{} for _ in self.balls]

    @property
    def balls(self) -> tuple[Ball, ...]:
        return self.table.balls

    def climb(self, method: str) -> Generator[Progress, None, None]:
        """Try a method on what is open, the largest eps first, since its proofs hold for the smaller; nearest to proved first.

        Where ``impatient``, a block goes through its samples in waves that grow, and leaves the rung with one in which nothing is
        decided: those behind are further from a proof. Only behind the first wave it goes on, where a bound came within reach, or
        rounding alone stood in the way.
        """
        table, splits = self.table, METHODS[method].splits
        size = 1 if splits else self.prover.batch(method, self.classes)
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level in reversed(range(len(self.balls))):
            compute = partial(self._divided if splits else self._bounded, method, level)
            waiting = [self._waves(level, rows) for rows in by_block(self.blocks, table.open(level))]
            wave = 0
            while waiting:
                rows = [waves[0] for waves in waiting]
                first = [self._sentinel(level, some) if wave == 0 else some[:0] for some in rows]
                cuts = [chunks(np.concatenate(both), size) for both in zip(first, rows, strict=True)]
                key = f"{method}@{self.balls[level].eps}#{wave}"
                results = yield from self.work.units(
                    key, [cut for some in cuts for cut in some], compute, phase=method, before=done, total=total
                )
                of_block, going_on = iter(results), []
                for waves, some in zip(waiting, cuts, strict=True):
                    if self._entered(method, level, some, [next(of_block) for _ in some], wave) and waves[1:]:
                        going_on.append(waves[1:])
                done = min(done + sum(map(len, rows)), total)
                waiting, wave = going_on, wave + 1
            table.check(self.indices)
        if total:
            yield Progress(method, total, total)

    def unfinished(self, level: int) -> tuple[Unfinished, ...]:
        """Why branch and bound left those samples that are unknown at a level, by index."""
        still = set(self.table.open(level).tolist())
        found = (one for row, one in self._left[level].items() if row in still)
        return tuple(sorted(found, key=lambda one: one.index))

    def _bounded(self, method: str, level: int, rows: np.ndarray) -> Arrays:
        return {"margins": self.prover.margins(method, self.balls[level], rows)}

    def _divided(self, method: str, level: int, row: np.ndarray) -> Arrays:
        """One sample by branch and bound."""
        # Of what is falsified already no counterexample is looked for: a proof would give the search away.
        looked_for = bool(self.table.alive[level, row].all())
        found = self.prover.decided(method, self.balls[level], row, self.predict if looked_for else None)
        broken, label, point = found.end == "falsified", self.labels[row], self.images[row][:0]
        if found.point is not None:
            point = found.point[None].cpu().numpy()
            label = self.predict(point).argmax(1)
        how = {
            "margins": np.array([found.margin if found.end == "proved" else np.nan]),
            "broken": np.array([broken]),
            "points": point,
            "labels": label,
        }
        left = found.unfinished(int(self.indices[row[0]]))
        return how if left is None else how | {"left": np.array([left.model_dump_json()])}

    def _entered(
        self, method: str, level: int, cuts: Sequence[Rows], results: Sequence[Arrays | None], wave: int
    ) -> bool:
        """Enter what a rung found in a wave of a block; whether it is worth a further one."""
        table, gained, near = self.table, 0, False
        for pick, found in zip(cuts, results, strict=True):
            if found is None:
                table.skipped[level, pick] = True
                continue
            alive = table.alive[level, pick]
            gained += table.bound(method, level, pick, found["margins"])
            near |= bool((alive & (found["margins"] > -self.reach[pick])).any())
            table.looked(method, level, int(alive.sum()))
            if "broken" in found and found["broken"].any():
                table.attacked(method, level, pick, Attacked(found["broken"], found["points"], found["labels"]))
                gained += int(alive.sum())
            if "left" in found and alive.all():
                self._left[level][int(pick[0])] = left = Unfinished.model_validate_json(str(found["left"][0]))
                near |= left.why == "charge"
        return gained > 0 or not self.impatient or (near and wave == 0) or None in results

    def _sentinel(self, level: int, rows: Rows) -> Rows:
        """The falsified sample nearest to a proof in the block of some rows: every rung bounds it too, and a proof of it gives
        the bound away."""
        (block,) = (block for block in self.blocks if block[0] <= rows[0] <= block[-1])
        broken = block[self.table.correct[block] & ~self.table.alive[level, block]]
        return self._nearest(level, broken)[:1]

    def _nearest(self, level: int, rows: np.ndarray) -> np.ndarray:
        """Samples by the best margin known, the largest first; those without any come last."""
        margins = np.nan_to_num(self.table.margins[level, rows], nan=-np.inf)
        return rows[np.argsort(-margins, kind="stable")]

    def _waves(self, level: int, rows: Rows) -> list[Rows]:
        """The rows of a block, nearest to a proof first, in waves of 2, 8, 32, ..., or all at once for who is patient."""
        rows, waves, size = self._nearest(level, rows), [], FIRST_WAVE if self.impatient else len(rows)
        while len(rows):
            waves.append(rows[:size])
            rows, size = rows[size:], GROWTH * size
        return waves


def chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in order, so many at once."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
