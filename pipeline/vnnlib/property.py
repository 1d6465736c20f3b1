"""A property in disjunctive normal form: input boxes, and in each a disjunction of conjunctions of linear constraints."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Literal


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
class Declared:
    """An input or output as VNN-LIB 2.0 declares it, by the name it has there and, where that is said, in the file."""

    name: str
    kind: Literal["X", "Y"]
    element_type: str
    shape: tuple[int, ...]
    onnx_name: str | None = None

    @property
    def size(self) -> int:
        """Its entries."""
        return prod(self.shape)


@dataclass(frozen=True)
class Property:
    """The unsafe set: the disjunction of ``cases``. ``vacuous`` counts the disjuncts that no input satisfies, which it omits.

    Boxes are closed; where ``open_ends``, some bound was strict, and a point on a side need not be in the unsafe set. So it is
    where constraints were ``relaxed``: those over several inputs, or inputs and outputs, which bounds do without. ``declared``
    are inputs and outputs in their order, where they have names and types (VNN-LIB 2.0), and ``network`` is what has them.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    vacuous: int = 0
    open_ends: bool = False
    relaxed: int = 0
    declared: tuple[Declared, ...] = ()
    network: str | None = None

    @property
    def contains_more(self) -> bool:
        """Whether points of ``cases`` need not be in the unsafe set as it was stated."""
        return self.open_ends or self.relaxed > 0
