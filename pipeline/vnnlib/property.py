"""What a property says, once its connectives are expanded: boxes, and in each a disjunction of linear conjunctions."""

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
    """One input box, closed, and what is unsafe in it: the outputs that meet every constraint of some conjunction."""

    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    unsafe: tuple[Conjunction, ...]


@dataclass(frozen=True)
class Property:
    """The unsafe set: ``cases`` is a disjunction. ``vacuous`` counts the disjuncts that no input meets, left out of it.

    Boxes are closed; where ``open_ends``, some bound was strict, and a point on a side need not be in the unsafe set.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    vacuous: int = 0
    open_ends: bool = False
