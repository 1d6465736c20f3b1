"""Whether retraining was worth it: the new file against the given one, at the eps that was trained for."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pipeline.results.outcome import GateOutcome
from pipeline.results.rate import Rate
from pipeline.results.result import Accuracies

Metric = Literal["certified", "attacked"]


def improvement(before: Accuracies, after: Accuracies) -> tuple[GateOutcome, ...]:
    """Certified accuracy must have risen, and attacked accuracy, where both were attacked, not have fallen; exact on counts.

    ``passed`` is None where samples of either file that a budget left undecided could still turn the outcome.
    """
    outcomes = [_gate("certified", before, after)]
    if before.attacked is not None and after.attacked is not None:
        outcomes.append(_gate("attacked", before, after))
    return tuple(outcomes)


def _gate(metric: Metric, before: Accuracies, after: Accuracies) -> GateOutcome:
    old, new = _rate(before, metric), _rate(after, metric)
    (old_low, old_high), (new_low, new_high) = _range(before, metric), _range(after, metric)

    def better(new: Fraction, old: Fraction) -> bool:
        return new > old if metric == "certified" else new >= old

    return GateOutcome(
        id=f"improvement:{metric}@{after.eps}",
        kind="require-improvement",
        metric=metric,
        eps=after.eps,
        comparator=">" if metric == "certified" else ">=",
        threshold=f"{old.k}/{old.n}",
        observed=new.value,
        k=new.k,
        n=new.n,
        passed=True if better(new_low, old_high) else False if not better(new_high, old_low) else None,
    )


def _rate(side: Accuracies, metric: Metric) -> Rate:
    rate = side.certified if metric == "certified" else side.attacked
    assert rate is not None
    return rate


def _range(side: Accuracies, metric: Metric) -> tuple[Fraction, Fraction]:
    """Between which the accuracy lies: an undecided sample may still be certified, or be broken by the attack."""
    rate = _rate(side, metric)
    least, most = (rate.k, rate.k + side.undecided) if metric == "certified" else (rate.k - side.undecided, rate.k)
    return Fraction(least, rate.n), Fraction(most, rate.n)
