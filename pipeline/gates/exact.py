"""Binomial probabilities in whole numbers: what decides a gate is never a rounded quantile."""

from __future__ import annotations

from decimal import ROUND_UP, Context, Decimal
from fractions import Fraction

TAIL = Fraction(1, 40)
"""The probability beyond either end of a two-sided 95 % interval."""
SHOWN = Context(prec=3, rounding=ROUND_UP, Emin=-(10**9))


def lower_end_reaches(k: int, n: int, threshold: Fraction) -> bool:
    """Whether the lower end of the 95 % interval of Clopper and Pearson (Biometrika 26, 1934) is at least `threshold`.

    That end is the p at which `P(X >= k) = 1/40` for X binomial in n and p, and the probability rises with p: the end is
    at least t if and only if `P(X >= k) <= 1/40` at p = t.
    """
    if threshold <= 0 or k == 0:
        return threshold <= 0
    success, whole = threshold.numerator, threshold.denominator
    term = tail = success**n  # C(n, i) s^i (w - s)^(n - i) at i = n, in units of w^-n
    for i in range(n - 1, k - 1, -1):
        term = term * ((i + 1) * (whole - success)) // ((n - i) * success)
        tail += term
    return Fraction(tail, whole**n) <= TAIL


def sign_test(lost: int, gained: int) -> Fraction:
    """The exact two-sided p-value of McNemar's test (Psychometrika 12, 1947) that losses and gains are equally likely.

    `min(1, 2 P(X <= min(lost, gained)))`, X binomial in lost + gained and 1/2; 1 where nothing changed.
    """
    n = lost + gained
    term = tail = 1
    for i in range(min(lost, gained)):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(Fraction(1), Fraction(2 * tail, 2**n))


def shown(p: Fraction) -> str:
    """A probability with three digits, rounded up: what is shown is never more significant than what was found."""
    return str(SHOWN.divide(Decimal(p.numerator), Decimal(p.denominator)).normalize(SHOWN)).lower()
