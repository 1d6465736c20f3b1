"""Constraints on outputs as linear forms that a bound can be asked of."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np
import torch

from pipeline.certify.boxes import Subdomain
from pipeline.core.linear_form import LinearForm
from pipeline.errors import InputRejected
from pipeline.vnnlib import Property, below64

LARGEST = Fraction(2) ** 1023
"""Numbers beyond leave float64."""


class Forms:
    """The rows ``c.y - t`` of a property: each must be positive for its constraint ``c.y <= t`` never to hold.

    For a strict one, ``c.y < t``, it is enough that the row is never negative.
    """

    def __init__(self, question: Property):
        self.question = question
        self._constraints = lru_cache(1 << 15)(self._read)

    def __call__(self, patches: Sequence[Subdomain]) -> tuple[LinearForm, np.ndarray, np.ndarray]:
        """The rows of the open conjunctions of every patch, which conjunction each belongs to (-1: none), and which are strict.

        ``coeff``: (rows, patches, outputs), exact; ``const``: (rows, patches), rounded down.
        """
        chosen = []
        for patch in patches:
            coeff, const, owner, strict = self._constraints(patch.case)
            at = np.isin(owner, patch.open)
            chosen.append((coeff[at], const[at], owner[at], strict[at]))
        rows = max(1, *(len(const) for _, const, *_ in chosen))
        coeff = np.zeros((rows, len(patches), self.question.outputs))
        const, owner = np.full((rows, len(patches)), -1.0), np.full((rows, len(patches)), -1)
        strict = np.zeros((rows, len(patches)), bool)
        for b, (c, t, o, s) in enumerate(chosen):
            coeff[: len(t), b], const[: len(t), b], owner[: len(t), b], strict[: len(t), b] = c, t, o, s
        return LinearForm(torch.from_numpy(coeff), torch.from_numpy(const)), owner, strict

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows = [(a, c) for a, conjunction in enumerate(self.question.cases[index].unsafe) for c in conjunction]
        coeff, const = np.zeros((len(rows), self.question.outputs)), np.zeros(len(rows))
        for k, (_, constraint) in enumerate(rows):
            terms, bound = scaled(constraint.terms, constraint.bound)
            for j, c in terms:
                coeff[k, j] = c
            const[k] = below64(-bound)
        return coeff, const, np.array([a for a, _ in rows], int), np.array([c.strict for _, c in rows], bool)


def never_negative(coeff: np.ndarray, const: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Whether ``<c, y> + d >= 0`` for every ``y`` between the ends, in exact arithmetic.

    ``coeff``: (rows, outputs); ``const``: (rows,); ``lower``, ``upper``: (rows, outputs). Ends that are not finite prove nothing.
    """
    found = np.zeros(len(const), bool)
    for k, (c, d, a, b) in enumerate(zip(coeff, const, lower, upper, strict=True)):
        used = np.flatnonzero(c)
        ends = np.where(c > 0, a, b)[used]
        if np.isfinite(ends).all() and np.isfinite(d):
            terms = (Fraction(float(w)) * Fraction(float(y)) for w, y in zip(c[used], ends, strict=True))
            found[k] = Fraction(float(d)) + sum(terms, Fraction(0)) >= 0
    return found


def scaled(terms: Sequence[tuple[int, Fraction]], bound: Fraction) -> tuple[list[tuple[int, float]], Fraction]:
    """A positive multiple of a constraint whose coefficients are exact in float64. Raises InputRejected where none is found."""
    factor = Fraction(1)
    if any(Fraction(float(c)) != c for _, c in terms):
        factor = Fraction(lcm(*(c.denominator for _, c in terms)))
    bound, whole = bound * factor, [(j, c * factor) for j, c in terms]
    if max(map(abs, (bound, *(c for _, c in whole)))) > LARGEST or any(Fraction(float(c)) != c for _, c in whole):
        raise InputRejected(
            "A constraint, multiplied until its coefficients are whole numbers, must have coefficients that are exact in float64 "
            "and a bound within its range; this one has too many digits. Write it with fewer."
        )
    return [(j, float(c)) for j, c in whole], bound
