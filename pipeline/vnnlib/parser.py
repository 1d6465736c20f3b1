"""VNN-LIB text -> Property, in one pass: every list is reduced to its meaning when it closes.

A term is a linear form, a formula a disjunction of clauses (``and`` multiplies, ``or`` joins), and several ``assert``s are a
conjunction, wherever they stand. Numbers are exact fractions throughout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.errors import InputRejected
from pipeline.vnnlib.clauses import Clause, assemble, both, either
from pipeline.vnnlib.property import Property
from pipeline.vnnlib.terms import COMPARISONS, OPERATIONS, Atom, Linear, combine, compare, symbol

MAX_DEPTH = 64
MAX_VARIABLES = 1 << 20
NEWER = ("vnnlib-version", "declare-network", "declare-input", "declare-hidden", "declare-output")
"""Commands that VNN-LIB 2.0 has and 1.0 has not."""


class Reader:
    """VNN-LIB 1.0: SMT-LIB 2.6 restricted to linear constraints over X_i and Y_j."""

    token = re.compile(r"[()]|;[^\n]*|[^\s();]+")

    def __init__(self) -> None:
        self.declared: dict[str, set[int]] = {"X": set(), "Y": set()}
        self.assertions: list[list[Clause]] = []
        self.atoms: dict[tuple[Any, ...], list[Clause]] = {}
        self.line = 1

    def read(self, text: str) -> Property:
        """The unsafe set that a file states.

        Raises InputRejected (3), naming the line, for a file that is malformed or beyond the limits, an input without bounds, or
        another kind of constraint.
        """
        stack: list[list[Any]] = []
        for token in self._tokens(text):
            if token == "(":
                stack.append([])
                if len(stack) > MAX_DEPTH:
                    raise self._error(f"lists nest at most {MAX_DEPTH} deep; these nest deeper")
            elif token != ")":
                if not stack:
                    raise self._error(f"a file is a sequence of commands in parentheses; {token[:40]!r} stands outside")
                stack[-1].append(token)
            elif not stack:
                raise self._error("every `)` closes a `(`; this one closes none")
            else:
                items = stack.pop()
                if stack:
                    stack[-1].append(self._meaning(items))
                else:
                    self._command(items)
        if stack:
            raise self._error(f"every `(` is closed; {len(stack)} are still open at the end: the file is truncated")
        counts = {kind: self._count(kind) for kind in "XY"}
        return assemble(self.assertions, counts["X"], counts["Y"])

    def _tokens(self, text: str) -> Iterator[str]:
        # Comments end at \n, \r or \r\n (SMT-LIB), not at the other line ends of Unicode.
        for self.line, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
            for token in self.token.findall(line):
                if token[0] != ";":
                    yield token

    def _command(self, items: list[Any]) -> None:
        self._refuse_version_two(items)
        match items:
            case ["declare-const", str(name), "Real"]:
                self._declare(name)
            case ["assert", formula]:
                self.assertions.append(self._formula(formula))
            case _:
                raise self._error(
                    "a command is `(declare-const X_i Real)` or `(assert ...)`; this one is "
                    f"`({self._excerpt(items[:1])} ...` with {len(items)} parts"
                )

    def _refuse_version_two(self, items: list[Any]) -> None:
        if items and items[0] in NEWER:
            raise InputRejected(
                f"A property in VNN-LIB 2.0 begins with `(vnnlib-version <2.0>)`; this one does not, and line {self.line} holds "
                f"`{items[0]}`. Say the version first."
            )

    def _declare(self, name: str) -> None:
        variable = symbol(name)
        if not isinstance(variable, Linear) or not variable.terms:
            raise self._error(f"inputs are called X_0, X_1, ... and outputs Y_0, Y_1, ...; {name[:40]!r} is declared")
        ((kind, index),) = variable.terms
        if index >= MAX_VARIABLES:
            raise self._error(f"a property has at most {MAX_VARIABLES} variables of a kind; {name} is declared")
        if index in self.declared[kind]:
            raise self._error(f"a variable is declared once; {name} is declared again")
        self.declared[kind].add(index)

    def _meaning(self, items: list[Any]) -> Any:
        """The meaning of a list that is not a command: a linear form, or the clauses of a formula."""
        if not items or not isinstance(items[0], str):
            raise self._error("a list begins with and, or, <=, >=, <, >, +, - or *")
        self._refuse_version_two(items)
        head, rest = items[0], items[1:]
        if head in ("and", "or"):
            parts = [self._formula(part) for part in rest]
            if not parts:
                raise self._error(f"`{head}` joins at least one formula; here it joins none")
            try:
                return both(parts) if head == "and" else either(parts)
            except ValueError as error:
                raise self._error(str(error)) from None
        if head in COMPARISONS:
            key = tuple(items) if all(isinstance(item, str) for item in items) else None
            if key is None:
                return self._comparison(head, rest)
            if key not in self.atoms:
                self.atoms[key] = self._comparison(head, rest)
            return self.atoms[key]
        if head in OPERATIONS:
            try:
                return combine(head, [self._term(part) for part in rest])
            except ValueError as error:
                raise self._error(str(error)) from None
        raise self._error(f"a list begins with and, or, <=, >=, <, >, +, - or *; this one begins with {head[:40]!r}")

    def _comparison(self, head: str, rest: list[Any]) -> list[Clause]:
        if len(rest) != 2:
            raise self._error(f"`{head}` compares two terms; here it has {len(rest)}")
        try:
            atom: Atom | bool = compare(head, self._term(rest[0]), self._term(rest[1]))
        except ValueError as error:
            raise self._error(str(error)) from None
        return [(atom,)] if not isinstance(atom, bool) else [()] if atom else []

    def _term(self, item: Any) -> Linear:
        if isinstance(item, str):
            return self._symbol(item)
        if isinstance(item, Linear):
            return item
        raise self._error("a term stands on each side of a comparison or operation; here stands a formula")

    def _symbol(self, item: str) -> Linear:
        term = symbol(item)
        if term is None:
            raise self._error(f"a term is a number, X_i, Y_j, or a sum or product of them; received {item[:40]!r}")
        for kind, index in term.terms:
            if index not in self.declared[kind]:
                raise self._error(f"a variable is declared before it is used; {item[:40]} is not")
        return term

    def _formula(self, item: Any) -> list[Clause]:
        if not isinstance(item, list):
            raise self._error(
                f"a formula is a comparison, or `and` or `or` of formulas; received {self._excerpt([item])}"
            )
        return item

    def _count(self, kind: str) -> int:
        indices = self.declared[kind]
        count = len(indices)
        if not count:
            raise InputRejected(f"A property declares {kind}_0, {kind}_1, ...; this one declares no {kind} at all.")
        if max(indices) != count - 1:
            missing = next(i for i in range(count) if i not in indices)
            raise InputRejected(
                f"Variables are numbered without gaps; {kind}_{max(indices)} is declared and {kind}_{missing} is not. Declare it."
            )
        return count

    def _excerpt(self, items: list[Any]) -> str:
        return " ".join(repr(i[:40]) if isinstance(i, str) else "(...)" for i in items) or "()"

    def _error(self, what: str) -> InputRejected:
        return InputRejected(f"The property cannot be read at line {self.line}: {what}. Mend the file.")
