"""A test whether a natural accuracy is better than guessing."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from pipeline.results.facts import Caution
from pipeline.results.per_radius import ClassRow, Level
from pipeline.results.rate import Rate, betainc
from pipeline.results.result import Result
from pipeline.results.text import percent

ALPHA = 0.01
CODE = "near-chance"


def guessing(classes: int, per_label: Sequence[int]) -> Fraction:
    """The accuracy of guessing: of a random class, or of always the most frequent label where there are several."""
    rates = [Fraction(1, max(classes, 1))]
    if len(per_label) > 1:
        rates.append(Fraction(max(per_label), sum(per_label)))
    return max(rates)


def near_chance(k: int, n: int, rate: Fraction) -> bool:
    """Whether ``k`` right of ``n`` are not significantly more than by guessing: ``P(X >= k) > 0.01``, X ~ Bin(n, rate).

    False for a file that is always right; and where samples are too few for any evidence, for one that is right at least as
    often as guessing.
    """
    enough = float(rate) ** n <= ALPHA or k < n * rate
    return k < n and enough and (k == 0 or betainc(k, n - k + 1, float(rate)) > ALPHA)


def caution(level: Level, classes: int, rows: Sequence[ClassRow]) -> Caution | None:
    """The warning of a result whose natural accuracy is near chance, else None."""
    natural, rate = level.natural, guessing(classes, [row.n for row in rows if row.eps == level.eps])
    if not near_chance(natural.k, natural.n, rate):
        return None
    attained = percent(Rate.of(rate.numerator, rate.denominator).value)
    return Caution(
        code=CODE,
        message=f"natural accuracy, {natural.k} of {natural.n}, is no better than guessing, which attains {attained}: the inputs "
        "may not be what the model was trained on, and what is proved of its labels says little",
    )


def is_near_chance(result: Result) -> bool:
    """Whether the natural accuracy of a result is near chance, by its counts rather than its warnings."""
    return bool(result.levels) and caution(result.levels[0], result.model.output.classes, result.per_class) is not None


def share_of_guessing(result: Result) -> Fraction:
    """The accuracy of guessing on the samples of a result."""
    rows = [row.n for row in result.per_class if row.eps == result.levels[0].eps]
    return guessing(result.model.output.classes, rows)
