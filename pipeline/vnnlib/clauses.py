"""Disjunctive normal form of limited size: lists of clauses, and at the end the boxes that their bounds describe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import chain
from math import prod

from pipeline.errors import InputRejected
from pipeline.vnnlib.property import Case, Conjunction, Constraint, Property
from pipeline.vnnlib.terms import Atom, Bound, Linked

MAX_CLAUSES = 1 << 15
MAX_ATOMS = 1 << 22
LARGEST = Fraction(10) ** 38
"""Ends of boxes stay within float32, in which inputs are stored."""

Clause = tuple[Atom, ...]


def both(parts: Sequence[list[Clause]]) -> list[Clause]:
    """The conjunction: every choice of one clause from each part. Raises ValueError beyond the limits."""
    common = tuple(chain.from_iterable(part[0] for part in parts if len(part) == 1))
    alternatives = [part for part in parts if len(part) != 1]
    count = prod(len(part) for part in alternatives)
    if count == 0:
        return []
    longest = len(common) + sum(max(map(len, part)) for part in alternatives)
    _check_size(count, count * longest)
    clauses = [common]
    for part in alternatives:
        clauses = [before + clause for before in clauses for clause in part]
    return clauses


def either(parts: Sequence[list[Clause]]) -> list[Clause]:
    """The disjunction: the clauses of all parts. Raises ValueError beyond the limits."""
    _check_size(sum(map(len, parts)), 0)
    clauses = list(chain.from_iterable(parts))
    _check_size(0, sum(map(len, clauses)))
    return clauses


def assemble(assertions: Sequence[list[Clause]], inputs: int, outputs: int) -> Property:
    """The Property that all assertions together state. Raises InputRejected for an input without both bounds."""
    if not assertions:
        raise InputRejected("A property asserts what is unsafe; this one asserts nothing.")
    unconditional = [clause for part in assertions if len(part) == 1 for clause in part]
    base = _Bounds(inputs)
    base.intersect(atom for clause in unconditional for atom in clause if isinstance(atom, Bound))
    common = tuple(a for clause in unconditional for a in clause if isinstance(a, Constraint))
    linked = tuple(a for clause in unconditional for a in clause if isinstance(a, Linked))
    try:
        clauses = both([part for part in assertions if len(part) != 1])
        _check_size(len(clauses), len(clauses) * len(common))
    except ValueError as error:
        raise InputRejected(f"The property is too large: {error}.") from None
    boxes: dict[tuple[int, ...], tuple[_Bounds, list[Conjunction]]] = {}
    # A disjunct that no input satisfies is vacuous: its box is empty, or an assertion is false.
    vacuous = sum(not part for part in assertions)
    for clause in clauses:
        bounds = tuple(a for a in clause if isinstance(a, Bound))
        rows = (*linked, *(a for a in clause if isinstance(a, Linked)))
        if rows and base.intersection(bounds).excludes(rows):
            vacuous += 1
            continue
        # The parser makes equal atoms one object, so equal boxes have equal keys.
        key = tuple(map(id, bounds))
        if key not in boxes:
            if len(boxes) * inputs > MAX_ATOMS:
                raise InputRejected(f"The property is too large: its boxes have more than {MAX_ATOMS} sides in all.")
            boxes[key] = (base.intersection(bounds), [])
        boxes[key][1].append(common + tuple(a for a in clause if isinstance(a, Constraint)))
    cases = []
    for box, unsafe in boxes.values():
        box.check()
        if box.empty:
            vacuous += len(unsafe)
        else:
            cases.append(box.case(tuple(dict.fromkeys(unsafe))))
    parts = (clause for part in assertions for clause in part)
    open_ends = any(isinstance(atom, Bound) and atom.strict for clause in parts for atom in clause)
    relaxed = len({atom for part in assertions for clause in part for atom in clause if isinstance(atom, Linked)})
    return Property(inputs, outputs, tuple(cases), vacuous, open_ends, relaxed)


class _Bounds:
    """The ends of a box while they are collected; None where none was stated yet."""

    def __init__(self, inputs: int):
        self.lower: list[Fraction | None] = [None] * inputs
        self.upper: list[Fraction | None] = [None] * inputs

    def intersect(self, bounds: Iterable[Bound]) -> None:
        for bound in bounds:
            ends = self.upper if bound.upper else self.lower
            old = ends[bound.index]
            if old is None or (bound.value < old if bound.upper else bound.value > old):
                ends[bound.index] = bound.value

    def intersection(self, bounds: Sequence[Bound]) -> _Bounds:
        copy = _Bounds(0)
        copy.lower, copy.upper = list(self.lower), list(self.upper)
        copy.intersect(bounds)
        return copy

    def excludes(self, rows: Sequence[Linked]) -> bool:
        """Whether no input of the box meets one of these."""
        return any(row.excluded(self.lower, self.upper) for row in rows)

    def check(self) -> None:
        """Raise InputRejected for an input without both ends, or with one that no float32 reaches."""
        for ends, word in ((self.lower, "lower"), (self.upper, "upper")):
            for index, end in enumerate(ends):
                if end is None:
                    raise InputRejected(
                        f"Every input is bounded on both sides in every disjunct; X_{index} has no {word} bound in one. "
                        f"Assert one."
                    )
                if abs(end) > LARGEST:
                    raise InputRejected(f"Inputs are float32, at most 1e38; the {word} bound of X_{index} is beyond.")

    @property
    def empty(self) -> bool:
        return any(a > b for a, b in zip(self.lower, self.upper, strict=True) if a is not None and b is not None)

    def case(self, unsafe: tuple[Conjunction, ...]) -> Case:
        return Case(
            tuple(e for e in self.lower if e is not None), tuple(e for e in self.upper if e is not None), unsafe
        )


def _check_size(clauses: int, atoms: int) -> None:
    if clauses > MAX_CLAUSES or atoms > MAX_ATOMS:
        raise ValueError(
            f"written as a disjunction it has {max(clauses, 1)} conjunctions and {atoms} comparisons; "
            f"at most {MAX_CLAUSES} and {MAX_ATOMS} are read. Split it over several files"
        )
