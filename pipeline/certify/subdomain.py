"""Subdomains of a property: boxes of inputs, and the constraints that are open over each as rows of a specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np
import torch
from torch import Tensor

from pipeline.bounds.specification import Specification
from pipeline.core.network import Network
from pipeline.errors import InputRejected
from pipeline.vnnlib import Case, Property, above64, below64, nearest32

LARGEST = Fraction(2) ** 1023
"""The largest power of two in float64: larger coefficients are refused."""
WIDTH_WEIGHT = 1.01
"""The weight of an input's share of the widths against its share of the cost; above 1, so that every input is halved in time."""
ALWAYS = ((), Fraction(1), False)
"""The constraint ``0 <= 1``, which stands for an empty conjunction: that holds everywhere."""


@dataclass(frozen=True, eq=False)
class Subdomain:
    """A part of a case's box, with ends rounded outward, and the numbers of the conjunctions not refuted over it."""

    case: int
    lower: np.ndarray
    upper: np.ndarray
    open: tuple[int, ...]


def whole(index: int, case: Case) -> Subdomain:
    """The box of a case: it contains every real point of the case and the float32 that a deployment rounds that point to.

    Rounding to nearest is monotone, so ``[min(l, fl(l)), max(u, fl(u))]`` contains both.
    """
    lower = np.array([min(below64(v), nearest32(v)) for v in case.lower])
    upper = np.array([max(above64(v), nearest32(v)) for v in case.upper])
    return Subdomain(index, lower, upper, tuple(range(len(case.unsafe))))


def inputs_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """A batch of flat vectors as the inputs of a network, in the file's order: (batch, *shape) for each shape."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    return [part.reshape(len(flat), *shape) for part, shape in zip(flat.split(sizes, 1), shapes, strict=True)]


def outputs_of(network: Network, xs: Sequence[Tensor]) -> list[Tensor]:
    """All outputs of a network, as a list."""
    y = network(*xs)
    return list(y) if isinstance(y, tuple) else [y]


class Constraints:
    """Rows ``c.y - t`` for the constraints ``c.y <= t`` of a property, with constants rounded down.

    Coefficients are exact: a constraint whose coefficients are no float64 is multiplied until they are (``scaled``). With
    ``nearest`` they are rounded instead, which is enough for an attack.
    """

    def __init__(self, question: Property, *, nearest: bool = False):
        self.question, self.nearest = question, nearest
        self._case = lru_cache(1 << 15)(self._read)

    def __call__(self, subdomains: Sequence[Subdomain]) -> Specification:
        """The rows of the open conjunctions; each subdomain is a sample, conjunctions are numbered as in its ``open``."""
        selected = []
        for subdomain in subdomains:
            arrays = self._case(subdomain.case)
            at = np.isin(arrays[-2], subdomain.open)
            selected.append([array[at] for array in arrays])
        rows, terms = (max(arrays[0].shape[axis] for arrays in selected) for axis in (0, 1))
        index, weight = (np.zeros((rows, len(subdomains), terms), kind) for kind in (np.int64, np.float64))
        const, conjunction = np.full((rows, len(subdomains)), -1.0), np.full((rows, len(subdomains)), -1)
        strict = np.zeros((rows, len(subdomains)), bool)
        for b, (i, w, t, owner, s) in enumerate(selected):
            index[: len(t), b, : i.shape[1]], weight[: len(t), b, : i.shape[1]] = i, w
            const[: len(t), b], strict[: len(t), b] = t, s
            conjunction[: len(t), b] = np.searchsorted(subdomains[b].open, owner)
        return Specification(*map(torch.from_numpy, (index, weight, const, conjunction, strict)))

    def _read(self, case: int) -> tuple[np.ndarray, ...]:
        """Index, weight, constant, conjunction and strictness of all constraints of a case, a row each."""
        rows = []
        for a, conjunction in enumerate(self.question.cases[case].unsafe):
            constraints = [(c.terms, c.bound, c.strict) for c in conjunction] or [ALWAYS]
            for terms, bound, strict in constraints:
                exact = (terms, bound) if self.nearest else scaled(terms, bound)
                rows.append((*exact, a, strict))
        width = max([1, *(len(terms) for terms, *_ in rows)])
        index, weight = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width))
        for k, (terms, *_) in enumerate(rows):
            for t, (j, c) in enumerate(terms):
                index[k, t], weight[k, t] = j, c
        const = np.array([below64(-bound) for _, bound, _, _ in rows])
        return index, weight, const, np.array([a for *_, a, _ in rows]), np.array([strict for *_, strict in rows])


def never_negative(coeff: np.ndarray, const: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Whether ``<c, y> + d >= 0`` for every ``y`` in ``[lower, upper]``, in exact arithmetic: (rows,).

    ``coeff``: (rows, outputs); ``const``: (rows,); ``lower``, ``upper``: (rows, outputs). Ends that are not finite prove nothing.
    """
    proved = np.zeros(len(const), bool)
    for k, (c, d, a, b) in enumerate(zip(coeff, const, lower, upper, strict=True)):
        used = np.flatnonzero(c)
        ends = np.where(c > 0, a, b)[used]
        if np.isfinite(ends).all() and np.isfinite(d):
            terms = (Fraction(float(w)) * Fraction(float(y)) for w, y in zip(c[used], ends, strict=True))
            proved[k] = Fraction(float(d)) + sum(terms, Fraction(0)) >= 0
    return proved


def scaled(terms: Sequence[tuple[int, Fraction]], bound: Fraction) -> tuple[list[tuple[int, float]], Fraction]:
    """A positive multiple of a constraint with coefficients that are exact in float64. Raises InputRejected if there is none."""
    factor = Fraction(1)
    if any(Fraction(float(c)) != c for _, c in terms):
        factor = Fraction(lcm(*(c.denominator for _, c in terms)))
    bound, whole = bound * factor, [(j, c * factor) for j, c in terms]
    if max(map(abs, (bound, *(c for _, c in whole)))) > LARGEST or any(Fraction(float(c)) != c for _, c in whole):
        raise InputRejected(
            "A constraint, multiplied until its coefficients are whole numbers, must have coefficients that are exact in float64 "
            "and a bound within its range; the coefficients of this one have too many digits. Write them with fewer."
        )
    return [(j, float(c)) for j, c in whole], bound


def halves_of(subdomain: Subdomain, varying: np.ndarray, score: np.ndarray) -> list[Subdomain]:
    """Both halves of a subdomain along one of its ``varying`` inputs, or none where it is too narrow.

    The input is that with the largest sum of its shares of ``score``, the cost to the bound, and of the widths. By the cost
    alone, an input without a coefficient would never be halved, although its width loosens the relaxations of ReLUs.
    """
    width = np.where(varying, subdomain.upper - subdomain.lower, 0.0)
    score = np.where(width > 0, np.nan_to_num(score), 0.0)
    at = int((score / (score.sum() or 1.0) + WIDTH_WEIGHT * width / (width.sum() or 1.0)).argmax())
    middle = subdomain.lower[at] + width[at] / 2
    if not subdomain.lower[at] < middle < subdomain.upper[at]:
        return []
    below, above = subdomain.upper.copy(), subdomain.lower.copy()
    below[at] = above[at] = middle
    return [replace(subdomain, upper=below), replace(subdomain, lower=above)]
