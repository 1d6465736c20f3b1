"""The rungs that bound open samples, the largest eps first: linear bounds, in waves, and branch and bound."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipeline.certify.attack import AttackResult, Predict
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
"""How many samples of a block the first wave has, and the factor by which each further wave is larger."""


@dataclass(eq=False)
class Rungs:
    """The state of a certification that the rungs read and write."""

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
    """The margin of each sample at its own point: a bound that is further below zero gives no hope for the rung."""
    impatient: bool
    """Whether a block leaves a rung, at one eps, after a wave of samples in which it proved none."""
    _unfinished: list[dict[int, Unfinished]] = field(init=False)
    """By level and row, why branch and bound did not decide a sample."""

    def __post_init__(self) -> None:
        self._unfinished = [{} for _ in self.balls]

    @property
    def balls(self) -> tuple[Ball, ...]:
        return self.table.balls

    def climb(self, method: str) -> Generator[Progress, None, None]:
        """Try a method on the open samples: the largest eps first, since its proofs hold for smaller ones.

        In each block, the samples nearest to a proof come first. If ``impatient``, they are tried in waves that grow, and the
        block leaves the rung after a wave that decides nothing, since later samples are further from a proof. The first wave is
        an exception: the rung continues where a bound came within ``reach``, or where only rounding prevented a proof.
        """
        table, splits = self.table, METHODS[method].splits
        size = 1 if splits else self.prover.batch(method, self.classes)
        total, done = sum(len(table.open(i)) for i in range(len(self.balls))), 0
        for level in reversed(range(len(self.balls))):
            compute = partial(self._branch_and_bound if splits else self._bound, method, level)
            waiting = [self._waves(level, rows) for rows in by_block(self.blocks, table.open(level))]
            wave = 0
            while waiting:
                rows = [waves[0] for waves in waiting]
                sentinels = [self._sentinel(level, some) if wave == 0 else some[:0] for some in rows]
                cuts = [chunks(np.concatenate(both), size) for both in zip(sentinels, rows, strict=True)]
                key = f"{method}@{self.balls[level].eps}#{wave}"
                results = yield from self.work.units(
                    key, [cut for some in cuts for cut in some], compute, phase=method, before=done, total=total
                )
                in_order, still_waiting = iter(results), []
                for waves, some in zip(waiting, cuts, strict=True):
                    if self._enter(method, level, some, [next(in_order) for _ in some], wave) and waves[1:]:
                        still_waiting.append(waves[1:])
                done = min(done + sum(map(len, rows)), total)
                waiting, wave = still_waiting, wave + 1
            table.check(self.indices)
        if total:
            yield Progress(method, total, total)

    def unfinished(self, level: int) -> tuple[Unfinished, ...]:
        """Why branch and bound did not decide the samples that are unknown at a level, in the order of their indices."""
        still_open = set(self.table.open(level).tolist())
        reasons = (one for row, one in self._unfinished[level].items() if row in still_open)
        return tuple(sorted(reasons, key=lambda one: one.index))

    def _bound(self, method: str, level: int, rows: np.ndarray) -> Arrays:
        return {"margins": self.prover.margins(method, self.balls[level], rows)}

    def _branch_and_bound(self, method: str, level: int, row: np.ndarray) -> Arrays:
        """One sample by branch and bound."""
        # For a falsified sample only a proof is searched for: finding one would show that the bounds are wrong.
        open_ = bool(self.table.alive[level, row].all())
        decision = self.prover.branch_and_bound(method, self.balls[level], row, self.predict if open_ else None)
        broken, label, point = decision.end == "falsified", self.labels[row], self.images[row][:0]
        if decision.point is not None:
            point = decision.point[None].cpu().numpy()
            label = self.predict(point).argmax(1)
        arrays = {
            "margins": np.array([decision.margin if decision.end == "proved" else np.nan]),
            "broken": np.array([broken]),
            "points": point,
            "labels": label,
        }
        unfinished = decision.unfinished(int(self.indices[row[0]]))
        return arrays if unfinished is None else arrays | {"left": np.array([unfinished.model_dump_json()])}

    def _enter(
        self, method: str, level: int, cuts: Sequence[Rows], results: Sequence[Arrays | None], wave: int
    ) -> bool:
        """Enter the results of one wave of a block into the table; returns whether a further wave is worth its time."""
        table, gained, near = self.table, 0, False
        for pick, arrays in zip(cuts, results, strict=True):
            if arrays is None:
                table.skipped[level, pick] = True
                continue
            alive = table.alive[level, pick]
            gained += table.enter_bounds(method, level, pick, arrays["margins"])
            near |= bool((alive & (arrays["margins"] > -self.reach[pick])).any())
            table.count_examined(method, level, int(alive.sum()))
            if "broken" in arrays and arrays["broken"].any():
                broken = AttackResult(arrays["broken"], arrays["points"], arrays["labels"])
                table.enter_attack(method, level, pick, broken)
                gained += int(alive.sum())
            if "left" in arrays and alive.all():
                unfinished = Unfinished.model_validate_json(str(arrays["left"][0]))
                self._unfinished[level][int(pick[0])] = unfinished
                near |= unfinished.why == "charge"
        return gained > 0 or not self.impatient or (near and wave == 0) or None in results

    def _sentinel(self, level: int, rows: Rows) -> Rows:
        """The falsified sample nearest to a proof in the block of some rows: every rung bounds it too, since a proof of it would
        show that the bounds are wrong."""
        (block,) = (block for block in self.blocks if block[0] <= rows[0] <= block[-1])
        broken = block[self.table.correct[block] & ~self.table.alive[level, block]]
        return self._nearest(level, broken)[:1]

    def _nearest(self, level: int, rows: np.ndarray) -> np.ndarray:
        """The rows, sorted by their best known margin, the largest first; those without one come last."""
        margins = np.nan_to_num(self.table.margins[level, rows], nan=-np.inf)
        return rows[np.argsort(-margins, kind="stable")]

    def _waves(self, level: int, rows: Rows) -> list[Rows]:
        """The rows of a block, nearest to a proof first, in waves of 2, 8, 32, ... if ``impatient``, else in one wave."""
        rows, waves, size = self._nearest(level, rows), [], FIRST_WAVE if self.impatient else len(rows)
        while len(rows):
            waves.append(rows[:size])
            rows, size = rows[size:], GROWTH * size
        return waves


def chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """The rows in order, in pieces of at most ``size``."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
