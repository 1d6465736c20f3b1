"""Each sample's largest certified eps, by a search on a grid; each value was certified itself, not interpolated."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from pipeline.certify.prover import Prover
from pipeline.certify.rungs import chunks
from pipeline.certify.scheduler import Work
from pipeline.certify.verdict_table import VerdictTable
from pipeline.core.threat import Ball
from pipeline.progress import Progress
from pipeline.results.blocks import Rows, by_block

TOLERANCE = Fraction(1, 4096)
"""The spacing of the grid, as a fraction of the range of pixels."""


def largest_eps(
    prover: Prover, table: VerdictTable, methods: Sequence[str], work: Work, classes: int, blocks: Sequence[Rows]
) -> Generator[Progress, None, np.ndarray]:
    """For each sample a certified eps such that the last method failed at eps + TOLERANCE, as a fraction of the range: (n,).

    The step of the search doubles from the largest eps known to be certified, and is halved after a failure; each method
    continues where the one before ended. The value is NaN where the file misclassifies the sample and 0 where nothing was
    proved; where the budget ends the search, it is what was certified until then.
    """
    rows = np.flatnonzero(table.correct)
    low, end = np.zeros(len(table.correct), np.int64), _ends(prover, table)
    for level, ball in enumerate(table.balls):
        low[table.certified[level]] = math.floor(ball.eps / TOLERANCE)
    for method in methods:
        high = end.copy()
        step = np.maximum((high - low) // 2, 1) if method == methods[0] else np.ones_like(low)
        size, turn = prover.batch(method, classes), 0
        while len(open_ := rows[high[rows] - low[rows] > 1]):
            middle = np.minimum(low + step, (low + high) // 2)

            def compute(pick: np.ndarray, middle: np.ndarray = middle, method: str = method) -> dict[str, np.ndarray]:
                balls = [replace(table.balls[0], eps=int(middle[i]) * TOLERANCE) for i in pick]
                return {"margins": prover.margins(method, balls, pick)}

            cuts = [cut for of_block in by_block(blocks, open_) for cut in chunks(of_block, size)]
            done = len(rows) - len(open_)
            results = yield from work.units(
                f"largest eps, {method}#{turn}",
                cuts,
                compute,
                phase=f"largest eps, {method}",
                before=done,
                total=len(rows),
            )
            for pick, arrays in zip(cuts, results, strict=True):
                margins = np.full(len(pick), np.nan) if arrays is None else arrays["margins"]
                proved = np.isfinite(margins) & (margins > 0) & (table.arithmetic != "none")
                low[pick[proved]], step[pick[proved]] = middle[pick[proved]], 2 * step[pick[proved]]
                failed = pick[~proved]
                high[failed], step[failed] = middle[failed], np.maximum(step[failed] // 2, 1)
            turn += 1
            if None in results:
                break
        if len(rows):
            yield Progress(f"largest eps, {method}", len(rows), len(rows))
    return np.where(table.correct, low * float(TOLERANCE), np.nan)


def certified_at(
    prover: Prover, balls: Sequence[Ball], methods: Sequence[str], classes: int
) -> Generator[Progress, None, np.ndarray]:
    """Whether each of the prover's samples is certified in a ball of its own, methods tried in their order: (n,)."""
    proved = np.zeros(len(balls), bool)
    for method in methods:
        open_, size = np.flatnonzero(~proved), prover.batch(method, classes)
        for start in range(0, len(open_), size):
            rows = open_[start : start + size]
            margins = prover.margins(method, [balls[i] for i in rows], rows)
            proved[rows] = np.isfinite(margins) & (margins > 0)
            yield Progress(f"largest eps, {method}", start + len(rows), len(open_))
    return proved


def _ends(prover: Prover, table: VerdictTable) -> np.ndarray:
    """By sample, a grid point at which nothing can be certified: the smallest eps of a counterexample, or the whole range."""
    whole = table.balls[0].whole(prover.images[0].size)
    end = np.full(len(table.correct), math.ceil(whole / TOLERANCE) + 1, np.int64)
    for level in reversed(range(len(table.balls))):
        end[table.correct & ~table.alive[level]] = math.ceil(table.balls[level].eps / TOLERANCE)
    return end
