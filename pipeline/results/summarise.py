"""From verdicts per sample to the levels and classes of a result, by counting alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.errors import Incomplete
from pipeline.methods import DECIDERS
from pipeline.results.facts import Unfinished
from pipeline.results.per_radius import ClassRow, Edge, Histogram, Layer, Level, Margin, RoundingCost, Rung, Verdicts
from pipeline.results.rate import Rate
from pipeline.results.result import LargestEps
from pipeline.results.samples import Samples, Verdict

BINS = 40
NEAR_ZERO = 1e-3
NEAREST = 10


@dataclass(frozen=True)
class LevelDetails:
    """Details of one eps besides its verdicts: layers, the cost of rounding, rungs, and why samples stayed unknown."""

    layers: tuple[Layer, ...] = ()
    rounding: RoundingCost | None = None
    rungs: tuple[tuple[str, int], ...] = ()
    """Names from DECIDERS, each with the number of samples that it examined, in order."""
    unfinished: tuple[Unfinished, ...] = ()


def levels(samples: Samples, *, details: Sequence[LevelDetails] = ()) -> tuple[Level, ...]:
    """One level for each eps, with its details if given. Raises Incomplete for no samples."""
    if len(samples) == 0:
        raise Incomplete("No sample was evaluated, so that nothing was checked. Name data that hold samples.")
    details = details or [LevelDetails()] * len(samples.eps)
    return tuple(_level(samples, row, details[row]) for row in range(len(samples.eps)))


def largest_eps(samples: Samples, *, tolerance: str) -> LargestEps | None:
    """Quantiles of each correct sample's largest certified eps, rounded down; None where it was not searched for."""
    if samples.largest_eps is None:
        return None
    values = samples.largest_eps[np.isfinite(samples.largest_eps)]
    if len(values) == 0:
        return None
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], method="lower")
    p05, p25, p50, p75, p95 = map(float, quantiles)
    return LargestEps(tolerance=tolerance, p05=p05, p25=p25, p50=p50, p75=p75, p95=p95, mean=float(values.mean()))


def per_class(samples: Samples) -> tuple[ClassRow, ...]:
    """One row for each eps and each class among the labels."""
    rows = []
    for row, eps in enumerate(samples.eps):
        for label in np.unique(samples.label):
            mine = samples.label == label
            correct = mine & (samples.predicted == label)
            rows.append(
                ClassRow(
                    label=int(label),
                    eps=eps,
                    n=int(mine.sum()),
                    natural=int(correct.sum()),
                    attacked=None if samples.survived is None else int((correct & samples.survived[row]).sum()),
                    certified=int((mine & (samples.verdict[row] == Verdict.CERTIFIED)).sum()),
                    undecided=0 if samples.undecided is None else int((mine & samples.undecided[row]).sum()),
                )
            )
    return tuple(rows)


def _level(samples: Samples, row: int, details: LevelDetails) -> Level:
    n, codes = len(samples), samples.verdict[row]
    correct = samples.predicted == samples.label
    counts = np.bincount(codes, minlength=len(Verdict))
    survived = None if samples.survived is None else Rate.of(int((correct & samples.survived[row]).sum()), n)
    return Level(
        eps=samples.eps[row],
        eps_float=float(Fraction(samples.eps[row])),
        natural=Rate.of(int(correct.sum()), n),
        attacked=survived,
        certified=Rate.of(int(counts[Verdict.CERTIFIED]), n),
        verdicts=Verdicts(**{verdict.word: int(counts[verdict]) for verdict in Verdict}),
        undecided=0 if samples.undecided is None else int(samples.undecided[row].sum()),
        margin=_margin(samples.margin_lower[row], codes == Verdict.CERTIFIED),
        edge=_edge(samples, row),
        layers=details.layers,
        rungs=_rungs(samples, row, details),
        rounding=details.rounding,
        unfinished=details.unfinished,
    )


def _edge(samples: Samples, row: int) -> tuple[Edge, ...]:
    """The correct samples whose margin bounds are nearest to zero."""
    distance = np.where(samples.predicted == samples.label, np.abs(samples.margin_lower[row]), np.inf)
    nearest = [i for i in np.argsort(distance, kind="stable")[:NEAREST] if np.isfinite(distance[i])]
    return tuple(
        Edge(
            index=int(samples.index[i]),
            label=int(samples.label[i]),
            verdict=Verdict(samples.verdict[row, i]).word,
            margin=float(samples.margin_lower[row, i]),
        )
        for i in nearest
    )


def _rungs(samples: Samples, row: int, details: LevelDetails) -> tuple[Rung, ...]:
    if samples.decided_by is None:
        return ()
    decided = np.bincount(samples.decided_by[row], minlength=len(DECIDERS))
    certified = np.bincount(samples.decided_by[row][samples.verdict[row] == Verdict.CERTIFIED], minlength=len(DECIDERS))
    so_far = np.cumsum(certified)
    where = [(DECIDERS.index(name), examined) for name, examined in details.rungs]
    return tuple(
        Rung(name=DECIDERS[i], examined=examined, decided=int(decided[i]), certified=int(so_far[i]))
        for i, examined in where
    )


def _margin(lower: np.ndarray, certified: np.ndarray) -> Margin | None:
    # Beyond 1e300 differences would overflow.
    finite = lower[np.isfinite(lower)].astype(np.float64).clip(-1e300, 1e300)
    if len(finite) == 0:
        return None
    p01, p05, p50, p95, p99 = np.quantile(finite, [0.01, 0.05, 0.5, 0.95, 0.99])
    # A few extreme bounds must not determine the bins: they are counted in the outermost ones. Margins that differ only by
    # rounding have no range to divide into bins.
    size = max(abs(p01), abs(p99))
    start, end = (p01, p99) if p99 - p01 > 1e-9 * size + 1e-300 else (p01 - 0.5 - 1e-6 * size, p01 + 0.5 + 1e-6 * size)
    counts, edges = np.histogram(np.clip(finite, start, end), bins=BINS, range=(start, end))
    return Margin(
        p05=float(p05),
        p50=float(p50),
        p95=float(p95),
        near_zero=int((certified & (lower < NEAR_ZERO)).sum()),
        near_zero_below=NEAR_ZERO,
        not_finite=len(lower) - len(finite),
        histogram=Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts))),
    )
