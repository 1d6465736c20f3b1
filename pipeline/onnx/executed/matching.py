"""Whether every value of an executed graph is one of the file's, computed in a way that the account of rounding covers.

Both graphs are walked backwards side by side. A pair of values is the same where a *rewriting* of the table says so: it names
what the executed operator stands for among the file's, checks the conditions, and asks for the pairs of what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.views import AS_IT_IS, View

PAIRS = 64
"""How many pairs may be looked at for each operator of both graphs."""


@dataclass(frozen=True)
class Pair:
    """An executed value and the file's value that it is said to be, arranged so."""

    executed: str
    file: str
    view: View = AS_IT_IS


Steps = Generator[Pair, bool, bool]
"""A rewriting at work: yields pairs that must hold and is told whether each does; returns whether all is well."""


@dataclass
class Matching:
    """The two graphs, what was found to hold, and why something did not."""

    file: Graph
    executed: Graph
    known: dict[Pair, bool] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    """By position of an executed operator: the condition that was not met."""

    def holds(self, root: Pair) -> bool:
        """Whether a pair holds: a loop over generators, for graphs are deeper than Python's stack."""
        limit = PAIRS * (len(self.file.operators) + len(self.executed.operators) + 16)
        stack: list[tuple[Pair, Steps]] = [(root, self._steps(root))]
        answer: bool | None = None
        while stack:
            pair, steps = stack[-1]
            try:
                wanted = next(steps) if answer is None else steps.send(answer)
            except StopIteration as done:
                self.known[pair] = answer = bool(done.value)
                stack.pop()
                continue
            if wanted in self.known:
                answer = self.known[wanted]
            elif len(self.known) + len(stack) > limit:
                answer = False
            else:
                stack.append((wanted, self._steps(wanted)))
                answer = None
        return self.known[root]

    def because(self, own: GraphOperator, reason: str) -> bool:
        """Remember the condition that an executed operator does not meet; False, to be returned."""
        self.reasons.setdefault(own.position, reason)
        return False

    def _steps(self, pair: Pair) -> Steps:
        own = self.executed.producer(pair.executed)
        if pair.view.flat and (yield Pair(pair.executed, pair.file)):
            return True
        if own is None or self.executed.constants.fixed(pair.executed):
            if self._leaf(pair):
                return True
        else:
            index = self.executed.made[pair.executed][1]
            for rule in (*REWRITINGS.get(own.type, ()), *EVERYWHERE):
                if (yield from rule(self, own, index, pair)):
                    return True
        for inner in self._inward(pair):
            if (yield inner):
                return True
        return False

    def _leaf(self, pair: Pair) -> bool:
        """An input is the input of that name; a constant has the same numbers."""
        if pair.executed in self.executed.inputs:
            return pair.executed == pair.file and pair.view.plain
        if pair.executed not in self.executed.constants or pair.file not in self.file.constants:
            return False
        mine, theirs = self.executed.constants[pair.executed], pair.view.apply(self.file.constants[pair.file])
        return theirs is not None and same_numbers(mine.reshape(-1) if pair.view.flat else mine, theirs)

    def _inward(self, pair: Pair) -> Iterator[Pair]:
        """What the file only copies, transposes or reshapes, seen from the other side of that."""
        own = self.file.producer(pair.file)
        if own is None:
            return
        if (inner := copied(self.file, pair.file)) is not None:
            yield Pair(pair.executed, inner, pair.view)
        elif own.type == "Transpose":
            perm = own.attributes.get("perm") or _reversed(self.file, own.inputs[0])
            if perm is not None and (view := pair.view.before_file(perm)) is not None:
                yield Pair(pair.executed, own.inputs[0], view)
        elif own.type in RESHAPES and (
            pair.view.flat or (pair.view.plain and same_shape(self.file, pair.file, own.inputs[0]))
        ):
            yield Pair(pair.executed, own.inputs[0], pair.view)


Rewriting = Callable[[Matching, GraphOperator, int, Pair], Steps]
REWRITINGS: dict[str, list[Rewriting]] = {}
"""The table: by executed operator, tried in turn."""
EVERYWHERE: list[Rewriting] = []
"""For any operator, tried after its own."""
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def rewriting(*types: str) -> Callable[[Rewriting], Rewriting]:
    """Enter a rewriting into the table; without types, for every operator."""

    def enter(rule: Rewriting) -> Rewriting:
        for name in types:
            REWRITINGS.setdefault(name, []).append(rule)
        if not types:
            EVERYWHERE.append(rule)
        return rule

    return enter


def same_numbers(a: np.ndarray, b: np.ndarray) -> bool:
    """The same type, shape and numbers; zeros of both signs are one number."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def same_shape(graph: Graph, one: str, other: str) -> bool:
    """Whether two values of a graph are known to have one shape."""
    a, b = graph.types.get(one), graph.types.get(other)
    if a is None or b is None or not (a.HasField("shape") and b.HasField("shape")):
        return False
    pairs = list(zip(a.shape.dim, b.shape.dim, strict=False))
    same = [p == q and (p.dim_value > 0 or bool(p.dim_param)) for p, q in pairs]
    return len(a.shape.dim) == len(b.shape.dim) and all(same)


def copied(graph: Graph, value: str) -> str | None:
    """The input that an operator hands on as it is, None where it does something.

    Identity; Dropout outside training; a Cast to the type a value has; a Pad by nothing; a sum with zero, a product with one.
    """
    own, index = graph.made.get(value, (None, 0))
    if own is None or index != 0:
        return None
    first, second = own.input(0), own.input(1)
    if own.type == "Identity" or (own.type == "Dropout" and not _trains(graph, own)):
        return first
    if own.type == "Cast":
        return first if graph.element_type(first) == own.attributes.get("to") else None
    if own.type == "Pad":
        pads = graph.constants[second].tolist() if second and second in graph.constants else own.attributes.get("pads")
        return first if pads and not any(pads) else None
    neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(own.type)
    if neutral is None:
        return None
    for one, other in ((first, second), (second, first))[: 2 if own.type in ("Add", "Mul") else 1]:
        if other in graph.constants and not graph.constants.fixed(one):
            array, rank = graph.constants[other], graph.rank(one)
            if array.size == 1 and array.ndim <= (rank or 0) and array.reshape(-1)[0] == neutral:
                return one
    return None


def behind(graph: Graph, value: str) -> tuple[str, GraphOperator | None]:
    """What a value is a copy of, and what made that."""
    while (inner := copied(graph, value)) is not None:
        value = inner
    return value, graph.producer(value)


def _trains(graph: Graph, own: GraphOperator) -> bool:
    switch = own.input(2)
    return bool(switch) and (switch not in graph.constants or bool(graph.constants[switch].any()))


def _reversed(graph: Graph, value: str) -> tuple[int, ...] | None:
    rank = graph.rank(value)
    return None if rank is None else tuple(reversed(range(rank)))
