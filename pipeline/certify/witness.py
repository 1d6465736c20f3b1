"""Judges counterexamples: evaluates the property's own text at one point, in exact arithmetic.

It shares no code with ``pipeline/vnnlib``, so that it catches what that parser misreads. Every assertion is evaluated
recursively as it is written, without expansion and without tolerance.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.errors import InputRejected

Run = Callable[[np.ndarray], np.ndarray]
"""The delivered file: all its inputs as one flat float32 array, all its outputs as another."""
MAX_DEPTH = 100
_DECIMAL = re.compile(r"(?a:[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?)")


@dataclass(frozen=True, eq=False)
class Witness:
    """An exact input, the float32 values that the file was given for it, and the outputs that it returned."""

    x: tuple[Fraction, ...]
    point: np.ndarray
    y: np.ndarray
    refused: str | None
    """Why it is not a counterexample; None where it is one."""

    @property
    def rounded(self) -> int:
        """How many values of the exact input are no float32 and were rounded for the file."""
        return sum(Fraction(float(p)) != v for p, v in zip(self.point, self.x, strict=True))


def check(text: str, x: Sequence[Fraction], run: Run) -> Witness:
    """The witness at ``x``: its ``refused`` is None where every assertion holds at ``x`` and the file's outputs.

    The input is rounded to the nearest float32, as a deployment does; the assertions are evaluated at the exact input and the
    exact values of the float32 outputs. Outputs that are not finite satisfy no constraint.
    """
    point = np.array([_nearest(value) for value in x], np.float32)
    y = np.asarray(run(point), np.float32).reshape(-1)
    if not np.isfinite(y).all():
        return Witness(tuple(x), point, y, "an output is not finite")
    given = {"input": list(x), "output": [Fraction(float(v)) for v in y]}
    if re.match(r"(\s|;[^\r\n]*)*\(\s*vnnlib-version\s", text):
        return Witness(tuple(x), point, y, _first_broken_of_version_two(text, given))
    values = {f"{kind}_{i}": v for kind, side in (("X", "input"), ("Y", "output")) for i, v in enumerate(given[side])}
    return Witness(tuple(x), point, y, _first_broken(text, values))


def _nearest(value: Fraction) -> float:
    """The float32 nearest to an exact number, by integer arithmetic: 24 significant bits, ties to even."""
    if value == 0:
        return 0.0
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return float(round(value / unit) * unit)


def _first_broken(text: str, values: dict[str, Fraction]) -> str | None:
    """The first assertion that is false, as a phrase; None where all are true."""
    declared: set[str] = set()
    asserted = 0
    tokens = _words(text)
    for word in tokens:
        if word != "(":
            raise InputRejected(f"A property is a list of commands in parentheses; {word[:40]!r} is outside them.")
        command = next(tokens, "")
        if command == "declare-const":
            name, sort, end = (next(tokens, "") for _ in range(3))
            if name not in values or sort != "Real" or end != ")":
                return f"the property declares {name[:40]!r}, which the model does not have"
            declared.add(name)
        elif command == "assert":
            asserted += 1
            truth = _evaluate(tokens, next(tokens, ""), values, 0)
            if next(tokens, "") != ")" or not isinstance(truth, bool):
                raise InputRejected("An assertion holds one formula; the property has another kind.")
            if not truth:
                return f"assertion {asserted} is false"
        else:
            raise InputRejected(f"A property declares and asserts; it has the command {command[:40]!r}.")
    if declared != set(values):
        return f"the property declares {len(declared)} variables, the model has {len(values)}"
    return None if asserted else "the property asserts nothing"


def _first_broken_of_version_two(text: str, given: dict[str, list[Fraction]]) -> str | None:
    """``_first_broken`` for VNN-LIB 2.0, where entries ``X[i,j]`` of the declared inputs and outputs are variables."""
    plain = re.sub(r"\[[^\]]*\]", lambda m: re.sub(r"\s", "", m[0]), re.sub(r";[^\r\n]*", "", text))
    values: dict[str, Fraction] = {}
    left = {side: iter(numbers) for side, numbers in given.items()}
    for side, name, shape in re.findall(r"\(\s*declare-(input|output)\s+([^\s()]+)\s+[^\s()]+\s*\[([\d,]*)\]", plain):
        sizes = [int(size) for size in shape.split(",") if size]
        for index in itertools.product(*map(range, sizes)):
            value = next(left[side], None)
            if value is None:
                return f"the property declares more {side}s than the model has"
            values[f"{name}[{','.join(map(str, index))}]" if index else name] = value
    if any(next(rest, None) is not None for rest in left.values()):
        return "the property declares fewer values than the model has"
    tokens, asserted = _words(plain), 0
    for word in tokens:
        command = next(tokens, "")
        if word != "(" or command not in ("vnnlib-version", "declare-network", "assert"):
            raise InputRejected(f"A property declares a network and asserts; it has {word[:40]!r} {command[:40]!r}.")
        if command != "assert":
            _skip(tokens)
            continue
        asserted += 1
        truth = _evaluate(tokens, next(tokens, ""), values, 0)
        if next(tokens, "") != ")" or not isinstance(truth, bool):
            raise InputRejected("An assertion holds one formula; the property has another kind.")
        if not truth:
            return f"assertion {asserted} is false"
    return None if asserted else "the property asserts nothing"


def _skip(tokens: Iterator[str]) -> None:
    """Consume tokens up to the end of the list that was opened before."""
    depth = 1
    while depth:
        word = next(tokens, "")
        depth += (word == "(") - (word == ")")
        if not word:
            raise InputRejected("A property closes every parenthesis; this one ends before.")


def _words(text: str) -> Iterator[str]:
    for line in re.split("[\r\n]", text):
        yield from line.partition(";")[0].replace("(", " ( ").replace(")", " ) ").split()


def _evaluate(tokens: Iterator[str], word: str, values: dict[str, Fraction], depth: int) -> bool | Fraction:
    if word != "(":
        return values[word] if word in values else _number(word)
    if depth > MAX_DEPTH:
        raise InputRejected(f"A property nests at most {MAX_DEPTH} deep; this one nests deeper.")
    head, parts = next(tokens, ""), []
    while (word := next(tokens, "")) != ")":
        if not word:
            raise InputRejected("A property closes every parenthesis; this one ends before.")
        parts.append(_evaluate(tokens, word, values, depth + 1))
    truths = [p for p in parts if isinstance(p, bool)]
    numbers = [p for p in parts if not isinstance(p, bool)]
    if head in ("and", "or") and truths and not numbers:
        return all(truths) if head == "and" else any(truths)
    if truths or not numbers:
        raise InputRejected(f"`{head[:40]}` stands before parts of another kind.")
    first, *rest = numbers
    if len(numbers) == 2 and head in ("==", "!="):
        return (first == numbers[1]) == (head == "==")
    if len(numbers) >= 2 and head in ("<=", ">=", "<", ">"):
        holds = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}[head]
        return all(holds(a, b) for a, b in itertools.pairwise(numbers))
    if head == "-":
        return -first if not rest else first - sum(rest)
    if head == "+":
        return sum(numbers, Fraction(0))
    if head == "*":
        for factor in rest:
            first *= factor
        return first
    raise InputRejected(
        f"A formula is a comparison, `and` or `or`, a term is a sum or product; received {head[:40]!r}."
    )


def _number(word: str) -> Fraction:
    if len(word) > 400 or not _DECIMAL.fullmatch(word):
        raise InputRejected(f"A term is a declared variable or a decimal number; received {word[:40]!r}.")
    return Fraction(word)
