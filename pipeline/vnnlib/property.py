"""A property in disjunctive normal form: input boxes, and in each a disjunction of conjunctions of linear constraints."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Constraint:
    """``sum of c_j Y_j <= bound``, or ``<`` where ``strict``; every number is exact."""

    terms: tuple[tuple[int, Fraction], ...]
    bound: Fraction
    strict: bool = False


Conjunction = tuple[Constraint, ...]


@dataclass(frozen=True)
class Case:
    """One closed input box and its unsafe outputs: those that satisfy every constraint of some conjunction in ``unsafe``."""

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    unsafe: tuple[Conjunction, ...]


@dataclass(frozen=True)
class Property:
    """The unsafe set: the disjunction of ``cases``. ``vacuous`` counts the disjuncts that no input satisfies, which it omits.

    Boxes are closed; where ``open_ends``, some bound was strict, and a point on a side need not be in the unsafe set.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    vacuous: int = 0
    open_ends: bool = False
