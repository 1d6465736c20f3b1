"""Terms of a property: numbers, variables and linear forms, and the constraints that comparisons make of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from pipeline.vnnlib.property import Constraint

COMPARISONS = ("<=", ">=", "<", ">")
OPERATIONS = ("+", "-", "*")
MAX_DIGITS = 400
MAX_BITS = 1 << 14
LARGEST = Fraction(10) ** 300
"""Numbers in constraints on outputs stay within float64, in which bounds are computed."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")

Variable = tuple[str, int]


@dataclass(frozen=True)
class Linear:
    """``sum of c v + constant`` over the variables ``("X", i)`` and ``("Y", j)``."""

    terms: dict[Variable, Fraction] = field(default_factory=dict)
    constant: Fraction = Fraction(0)

    def plus(self, other: Linear, factor: Fraction) -> Linear:
        """``self + factor * other``."""
        terms = dict(self.terms)
        for variable, coefficient in other.terms.items():
            terms[variable] = terms.get(variable, Fraction(0)) + factor * coefficient
        result = Linear({v: c for v, c in terms.items() if c}, self.constant + factor * other.constant)
        # A product of many long numbers must not fill the memory.
        for value in (result.constant, *result.terms.values()):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
                raise ValueError(f"exact numbers have at most {MAX_BITS} bits; a sum or product here has more")
        return result


@dataclass(frozen=True)
class Bound:
    """``X_index <= value`` if ``upper``, else ``>=``; without equality where ``strict``."""

    index: int
    upper: bool
    value: Fraction
    strict: bool = False


@dataclass(frozen=True)
class Linked:
    """``sum of c v <= bound`` over several inputs, or over inputs and outputs; without equality where ``strict``."""

    terms: tuple[tuple[Variable, Fraction], ...]
    bound: Fraction
    strict: bool = False

    def excluded(self, lower: Sequence[Fraction | None], upper: Sequence[Fraction | None]) -> bool:
        """Whether no input of a box meets it. One with outputs, or over an open side, is not excluded."""
        least = Fraction(0)
        for (kind, index), coefficient in self.terms:
            end = (lower if coefficient > 0 else upper)[index] if kind == "X" else None
            if end is None:
                return False
            least += coefficient * end
        return least >= self.bound if self.strict else least > self.bound


Atom = Bound | Constraint | Linked


def symbol(token: str) -> Linear | None:
    """A number or a variable, None for anything else."""
    if len(token) <= MAX_DIGITS and _NUMBER.fullmatch(token):
        return Linear(constant=Fraction(token))
    match = _VARIABLE.fullmatch(token)
    return Linear({(match[1], int(match[2])): Fraction(1)}) if match else None


def combine(head: str, parts: Sequence[Linear]) -> Linear:
    """The sum, difference, negative or product of terms. Raises ValueError for a product of two variables."""
    if not parts:
        raise ValueError(f"`{head}` takes at least one term; here it has none")
    total, *rest = parts
    if head == "-" and not rest:
        return Linear().plus(total, Fraction(-1))
    for part in rest:
        if head != "*":
            total = total.plus(part, Fraction(1 if head == "+" else -1))
            continue
        if total.terms and part.terms:
            raise ValueError("constraints are linear; here two variables are multiplied")
        form, factor = (total, part.constant) if total.terms else (part, total.constant)
        total = Linear().plus(form, factor)
    return total


def compare(head: str, left: Linear, right: Linear, *, linked: bool = False) -> Atom | bool:
    """The constraint that a comparison states, or its truth value where no variable is left.

    Raises ValueError for one that is neither a linear constraint on outputs nor a bound of one input, unless ``linked`` ones are
    taken.
    """
    low, high = (left, right) if head[0] == "<" else (right, left)
    difference = low.plus(high, Fraction(-1))  # <= 0
    terms, bound, strict = difference.terms, -difference.constant, len(head) == 1
    if any(abs(value) > LARGEST for value in (bound, *terms.values())):
        raise ValueError("numbers are at most 1e300; here is a larger one")
    kinds = {kind for kind, _ in terms}
    if not kinds:
        return bound > 0 if strict else bound >= 0
    if kinds == {"Y"}:
        return Constraint(tuple(sorted((j, c) for (_, j), c in terms.items())), bound, strict)
    if linked and ("Y" in kinds or len(terms) > 1):
        return Linked(tuple(sorted(terms.items())), bound, strict)
    if kinds == {"X", "Y"}:
        raise ValueError("a constraint is over inputs or over outputs; here one joins both")
    if len(terms) > 1:
        raise ValueError(
            "inputs lie in boxes, each bounded by numbers alone; here several inputs are in one constraint"
        )
    (((_, index), coefficient),) = terms.items()
    return Bound(index, coefficient > 0, bound / coefficient, strict)
