"""Whether every value of an executed graph is one of the file's, computed in a way whose rounding is charged.

Both graphs are walked backwards side by side. A pair of values matches where a *rewriting* of the table says so: it finds the
operators of the file that an executed operator replaces, checks its conditions, and yields the pairs of operands that must
match.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.onnx.executed.graphs import Graph, GraphOperator
from pipeline.onnx.executed.views import AS_IT_IS, View

PAIRS = 64
"""The most pairs that are tried for each operator of both graphs."""


@dataclass(frozen=True)
class Pair:
    """The claim that an executed value is a value of the file, arranged as ``view`` says."""

    executed: str
    file: str
    view: View = AS_IT_IS


Steps = Generator[Pair, bool, bool]
"""A rewriting as a generator: yields pairs, receives whether each holds, and returns whether its own pair holds."""


@dataclass
class Matching:
    """The two graphs, which pairs hold, and why others do not."""

    file: Graph
    executed: Graph
    results: dict[Pair, bool] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    """By position of an executed operator: the condition that was not met."""

    def holds(self, root: Pair) -> bool:
        """Whether a pair holds. A loop over generators: graphs are deeper than Python's stack."""
        limit = PAIRS * (len(self.file.operators) + len(self.executed.operators) + 16)
        stack: list[tuple[Pair, Steps]] = [(root, self._steps(root))]
        answer: bool | None = None
        while stack:
            pair, steps = stack[-1]
            try:
                next_pair = next(steps) if answer is None else steps.send(answer)
            except StopIteration as done:
                self.results[pair] = answer = bool(done.value)
                stack.pop()
                continue
            if next_pair in self.results:
                answer = self.results[next_pair]
            elif len(self.results) + len(stack) > limit:
                answer = False
            else:
                stack.append((next_pair, self._steps(next_pair)))
                answer = None
        return self.results[root]

    def refuse(self, op: GraphOperator, reason: str) -> bool:
        """Record the condition that an executed operator does not meet; returns False, the result of the rewriting."""
        self.reasons.setdefault(op.position, reason)
        return False

    def _steps(self, pair: Pair) -> Steps:
        op = self.executed.producer(pair.executed)
        if pair.view.flat and (yield Pair(pair.executed, pair.file)):
            return True
        if op is None or self.executed.constants.fixed(pair.executed):
            if self._leaf(pair):
                return True
        else:
            index = self.executed.producers[pair.executed][1]
            for rule in (*REWRITINGS.get(op.type, ()), *EVERYWHERE):
                if (yield from rule(self, op, index, pair)):
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
        array, file_array = self.executed.constants[pair.executed], pair.view.apply(self.file.constants[pair.file])
        return file_array is not None and same_numbers(array.reshape(-1) if pair.view.flat else array, file_array)

    def _inward(self, pair: Pair) -> Iterator[Pair]:
        """The pair before a copy, transpose or reshape of the file, which the executed graph may not have."""
        op = self.file.producer(pair.file)
        if op is None:
            return
        if (inner := copy_source(self.file, pair.file)) is not None:
            yield Pair(pair.executed, inner, pair.view)
        elif op.type == "Transpose":
            perm = op.attributes.get("perm") or _reversing_perm(self.file, op.inputs[0])
            if perm is not None and (view := pair.view.before_file(perm)) is not None:
                yield Pair(pair.executed, op.inputs[0], view)
        elif op.type in RESHAPES and (
            pair.view.flat or (pair.view.plain and same_shape(self.file, pair.file, op.inputs[0]))
        ):
            yield Pair(pair.executed, op.inputs[0], pair.view)


Rewriting = Callable[[Matching, GraphOperator, int, Pair], Steps]
REWRITINGS: dict[str, list[Rewriting]] = {}
"""By type of the executed operator, tried in order."""
EVERYWHERE: list[Rewriting] = []
"""For operators of every type, tried last."""
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def rewriting(*types: str) -> Callable[[Rewriting], Rewriting]:
    """Register a rewriting of executed operators of these types; without types, of every type."""

    def enter(rule: Rewriting) -> Rewriting:
        for name in types:
            REWRITINGS.setdefault(name, []).append(rule)
        if not types:
            EVERYWHERE.append(rule)
        return rule

    return enter


def same_numbers(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether type, shape and numbers are equal; zeros of both signs are one number."""
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def same_shape(graph: Graph, one: str, other: str) -> bool:
    """Whether two values of a graph are known to have one shape."""
    a, b = graph.types.get(one), graph.types.get(other)
    if a is None or b is None or not (a.HasField("shape") and b.HasField("shape")):
        return False
    pairs = list(zip(a.shape.dim, b.shape.dim, strict=False))
    equal_sizes = [p == q and (p.dim_value > 0 or bool(p.dim_param)) for p, q in pairs]
    return len(a.shape.dim) == len(b.shape.dim) and all(equal_sizes)


def copy_source(graph: Graph, value: str) -> str | None:
    """The value that ``value`` is a copy of, None where it is computed.

    Identity; Dropout outside training; a Cast to the type a value has; a Pad by nothing; a sum with zero, a product with one.
    """
    op, index = graph.producers.get(value, (None, 0))
    if op is None or index != 0:
        return None
    first, second = op.input(0), op.input(1)
    if op.type == "Identity" or (op.type == "Dropout" and not _trains(graph, op)):
        return first
    if op.type == "Cast":
        return first if graph.element_type(first) == op.attributes.get("to") else None
    if op.type == "Pad":
        pads = graph.constants[second].tolist() if second and second in graph.constants else op.attributes.get("pads")
        return first if pads and not any(pads) else None
    neutral = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}.get(op.type)
    if neutral is None:
        return None
    for one, other in ((first, second), (second, first))[: 2 if op.type in ("Add", "Mul") else 1]:
        if other in graph.constants and not graph.constants.fixed(one):
            array, rank = graph.constants[other], graph.rank(one)
            if array.size == 1 and array.ndim <= (rank or 0) and array.reshape(-1)[0] == neutral:
                return one
    return None


def skip_copies(graph: Graph, value: str) -> tuple[str, GraphOperator | None]:
    """The value that a value is a copy of, through any number of copies, and the operator that computes it."""
    while (inner := copy_source(graph, value)) is not None:
        value = inner
    return value, graph.producer(value)


def _trains(graph: Graph, op: GraphOperator) -> bool:
    training_mode = op.input(2)
    return bool(training_mode) and (training_mode not in graph.constants or bool(graph.constants[training_mode].any()))


def _reversing_perm(graph: Graph, value: str) -> tuple[int, ...] | None:
    rank = graph.rank(value)
    return None if rank is None else tuple(reversed(range(rank)))
