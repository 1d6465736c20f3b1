"""VNN-LIB 2.0 text -> Property: one network, its inputs and outputs by name, type and shape, and assertions over their entries.

Entries are numbered through in the order of declarations, which is that of the file. Constraints that join several inputs, or
inputs and outputs, are left out of boxes and rows: the set that is then proved empty contains the one that is meant.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any, Literal, NoReturn

from pipeline.errors import InputRejected
from pipeline.vnnlib.clauses import Clause, both, either
from pipeline.vnnlib.parser import MAX_VARIABLES, Reader
from pipeline.vnnlib.property import Declared, Property
from pipeline.vnnlib.terms import Linear, compare, symbol

KINDS: dict[str, Literal["X", "Y"]] = {"declare-input": "X", "declare-output": "Y"}
TYPES = ("float32", "real")
_VERSION = re.compile(r"<2\.[0-9]{1,3}>")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_SHAPE = re.compile(r"\[\s*(?:[0-9]{1,9}\s*(?:,\s*[0-9]{1,9}\s*)*)?\]")
_ENTRY = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]{0,199})(\[[0-9,\s]*\])?")
OTHERS = ("declare-hidden", "equal-to", "isomorphic-to")
"""What the standard has of networks besides, and is refused by name."""


class Reader2(Reader):
    """VNN-LIB 2.0 without hidden nodes, several networks and products of variables."""

    token = re.compile(r"[()]|;[^\n]*|\"[^\"]*\"|[^\s();\[\]]*\[[^\]\n]*\]|[^\s();]+")

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[str, tuple[Declared, int]] = {}
        self.network: str | None = None

    def read(self, text: str) -> Property:
        """As ``Reader.read``; what is refused is said to be of VNN-LIB 2.0."""
        try:
            found = super().read(text)
        except InputRejected as error:
            raise InputRejected(f"VNN-LIB 2.0: {error}") from None
        declared = tuple(one for one, _ in self.variables.values())
        return replace(found, declared=declared, network=self.network)

    def _command(self, items: list[Any]) -> None:
        match items:
            case ["vnnlib-version", str(version)]:
                if not _VERSION.fullmatch(version):
                    raise self._error(f"versions <2.0> to <2.999> are read; this one is {version[:20]!r}")
            case ["declare-network", str(name), *parts]:
                if self.network is not None:
                    raise self._error("a property is of one network; here is another one")
                if not _NAME.fullmatch(name) or not all(isinstance(part, Declared) for part in parts):
                    raise self._error("a network has a name, and then its inputs and outputs")
                self.network = name
            case ["assert", formula]:
                self.assertions.append(self._formula(formula))
            case _:
                raise self._error(
                    "a command is vnnlib-version, declare-network or assert; this one is "
                    f"`({self._excerpt(items[:1])} ...` with {len(items)} parts"
                )

    def _meaning(self, items: list[Any]) -> Any:
        head = items[0] if items and isinstance(items[0], str) else ""
        if head in KINDS:
            return self._variable(KINDS[head], items[1:])
        if head in OTHERS:
            raise self._error(f"`{head}` is not read: a property is of the inputs and outputs of one network")
        if head in ("==", "!="):
            return self._equality(head, items[1:])
        return super()._meaning(items)

    def _variable(self, kind: Literal["X", "Y"], rest: list[Any]) -> Declared:
        match rest:
            case [str(name), str(element), str(shape), *more] if (
                _NAME.fullmatch(name) and _SHAPE.fullmatch(shape) and len(more) <= 1 and all(_quoted(m) for m in more)
            ):
                dims = tuple(int(d) for d in shape[1:-1].split(",") if d.strip())
            case _:
                self._malformed()
        if name in self.variables:
            raise self._error(f"a variable is declared once; {name[:40]} is declared again")
        element = "real" if element == "Real" else element
        if element not in TYPES:
            raise self._error(f"elements are of type {' or '.join(TYPES)}; {name[:40]} is {element[:40]}")
        found = Declared(name, kind, element, dims, more[0][1:-1] if more else None)
        start = len(self.declared[kind])
        if found.size == 0 or start + found.size > MAX_VARIABLES:
            raise self._error(f"a property has 1 to {MAX_VARIABLES} variables of a kind; {name[:40]} has {found.size}")
        self.declared[kind] |= set(range(start, start + found.size))
        self.variables[name] = found, start
        return found

    def _malformed(self) -> NoReturn:
        raise self._error(
            "an input or output has a name, a type, a shape such as [1,3], and perhaps its name in the file, quoted"
        )

    def _symbol(self, item: str) -> Linear:
        number = symbol(item)
        if number is not None and not number.terms:
            return number
        match = _ENTRY.fullmatch(item)
        if match is None:
            raise self._error(
                f"a term is a number, an entry such as X[0,1], or a sum or product; received {item[:40]!r}"
            )
        if match[1] not in self.variables:
            raise self._error(f"a variable is declared before it is used; {match[1][:40]} is not")
        of, start = self.variables[match[1]]
        where = [d.strip() for d in (match[2] or "[]")[1:-1].split(",") if d.strip()]
        if not all(d.isdecimal() and len(d) < 10 for d in where):
            raise self._error(f"an entry is numbered in digits; received {item[:40]!r}")
        index = [int(d) for d in where]
        if len(index) != len(of.shape) or any(i >= d for i, d in zip(index, of.shape, strict=False)):
            raise self._error(f"{item[:40]} is no entry of {of.name[:40]}, whose shape is {list(of.shape)}")
        flat = sum(i * prod(of.shape[axis + 1 :]) for axis, i in enumerate(index))
        return Linear({(of.kind, start + flat): Fraction(1)})

    def _comparison(self, head: str, rest: list[Any]) -> list[Clause]:
        """A chain ``a <= b <= c`` says of every two neighbours what it says of two."""
        if len(rest) < 2:
            raise self._error(f"`{head}` compares terms; here it has {len(rest)}")
        terms = [self._term(part) for part in rest]
        try:
            atoms = [compare(head, a, b, linked=True) for a, b in pairwise(terms)]
            return both([[(atom,)] if not isinstance(atom, bool) else [()] if atom else [] for atom in atoms])
        except ValueError as error:
            raise self._error(str(error)) from None

    def _equality(self, head: str, rest: list[Any]) -> list[Clause]:
        if len(rest) != 2:
            raise self._error(f"`{head}` compares two terms; here it has {len(rest)}")
        heads = ("<=", ">=") if head == "==" else ("<", ">")
        sides = [self._comparison(h, rest) for h in heads]
        try:
            return both(sides) if head == "==" else either(sides)
        except ValueError as error:
            raise self._error(str(error)) from None


def _quoted(item: Any) -> bool:
    return isinstance(item, str) and len(item) >= 2 and item[0] == item[-1] == '"'
