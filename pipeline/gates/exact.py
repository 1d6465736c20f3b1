"""Binomial probabilities: what decides a gate is never a rounded number.

A tail of the binomial distribution is a regularised incomplete beta function, which scipy computes in float64 to far better than
``CLOSE``. That decides every comparison but those nearer than ``CLOSE`` to their threshold, which exact arithmetic decides.
"""

from __future__ import annotations

from decimal import ROUND_UP, Context, Decimal
from fractions import Fraction

from pipeline.results.rate import betainc

TAIL = Fraction(1, 40)
"""The probability beyond either end of a two-sided 95 % interval."""
CLOSE = 1e-9
"""A relative distance: nearer to a threshold than this, float64 does not decide."""
LARGE = 10_000
"""Up to so many trials a probability is computed exactly, in milliseconds; the time grows with their square."""
SHOWN = Context(prec=3, rounding=ROUND_UP, Emin=-(10**9))


def lower_end_reaches(k: int, n: int, threshold: Fraction) -> bool:
    """Whether the lower end of the 95 % interval of Clopper and Pearson (Biometrika 26, 1934) is at least `threshold`.

    That end is the p at which `P(X >= k) = 1/40` for X binomial in n and p, and the probability rises with p: the end is
    at least t if and only if `P(X >= k) = I_t(k, n - k + 1) <= 1/40` at p = t.
    """
    if threshold <= 0 or k == 0:
        return threshold <= 0
    tail = betainc(k, n - k + 1, float(threshold))
    if abs(tail - float(TAIL)) > CLOSE * float(TAIL):
        return tail < float(TAIL)
    return _upper_tail(k, n, threshold) <= TAIL


def _upper_tail(k: int, n: int, threshold: Fraction) -> Fraction:
    """`P(X >= k)` for X binomial in n and the threshold, exactly."""
    success, whole = threshold.numerator, threshold.denominator
    term = tail = success**n  # C(n, i) s^i (w - s)^(n - i) at i = n, in units of w^-n
    for i in range(n - 1, k - 1, -1):
        term = term * ((i + 1) * (whole - success)) // ((n - i) * success)
        tail += term
    return Fraction(tail, whole**n)


def sign_test(lost: int, gained: int) -> Fraction:
    """The exact two-sided p-value of McNemar's test (Psychometrika 12, 1947) that losses and gains are equally likely.

    `min(1, 2 P(X <= min(lost, gained)))`, X binomial in lost + gained and 1/2; 1 where nothing changed. Of more than `LARGE`
    changes it is an upper bound, at most `CLOSE` above.
    """
    n, smaller = lost + gained, min(lost, gained)
    if n > LARGE:
        return min(Fraction(1), Fraction(max(2 * betainc(n - smaller, smaller + 1, 0.5), 2.0**-1000) * (1 + CLOSE)))
    return _both_tails(smaller, n)


def significant(lost: int, gained: int, level: Fraction) -> bool:
    """Whether the p-value of `sign_test` is at most `level`, decided exactly."""
    p_value = sign_test(lost, gained)
    if lost + gained > LARGE and abs(p_value - level) <= 2 * Fraction(CLOSE) * level:
        p_value = _both_tails(min(lost, gained), lost + gained)
    return p_value <= level


def _both_tails(smaller: int, n: int) -> Fraction:
    """`min(1, 2 P(X <= few))` for X binomial in n and 1/2, exactly."""
    term = tail = 1
    for i in range(smaller):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(Fraction(1), Fraction(2 * tail, 2**n))


def three_digits(p: Fraction) -> str:
    """A probability as text with three significant digits, rounded up: it never looks more significant than it is."""
    return str(SHOWN.divide(Decimal(p.numerator), Decimal(p.denominator)).normalize(SHOWN)).lower()
