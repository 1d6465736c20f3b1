"""The solver interface of VNN-LIB 2.0 (chapter 5 of the standard): answers queries, and states the solver's capabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.commands.events import Note, PropertyDone
from pipeline.commands.properties import decide_opened
from pipeline.commands.subject import opened
from pipeline.errors import UsageError
from pipeline.onnx import importer  # noqa: F401  enters the operators into their table
from pipeline.onnx.operators import OPSETS, TABLE
from pipeline.progress import Progress
from pipeline.results.property import PropertyResult
from pipeline.vnnlib import Declared, Property, load, parse

Answer = Literal["sat", "unsat", "unknown", "timed-out"]
ANSWERS: dict[str, Answer] = {"violated": "sat", "holds": "unsat", "unknown": "unknown", "timeout": "timed-out"}
DECIDING_SHARE = 0.9
"""The share of the timeout that is given to deciding; the rest is for starting, and for a step that is not yet finished."""

NOT_BOUNDED = {
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Where"),
    *("Cast", "ArgMax"),
}
"""Operators that can be imported and falsified, but not bounded where they depend on the input."""

FOLDED = {"Constant", "ConstantOfShape"}
"""Operators that the import replaces by their values."""

CAPABILITIES: dict[str, tuple[str, ...]] = {
    "onnx-opset-versions": (str(OPSETS.start), str(OPSETS.stop - 1)),
    "onnx-element-types": ("real", "float32"),
    "onnx-operators": tuple(sorted({*TABLE, *FOLDED} - NOT_BOUNDED)),
    "vnnlib-versions": ("1.0", "2.0"),
    "hidden-node-theories": ("NH",),
    "multiple-input-output-theories": ("SIO", "MIO"),
    "multiple-network-theories": ("SNET",),
    "multiple-node-comparison-theories": ("SNC", "MNC"),
    "arithmetic-complexity-theories": ("BND", "OUTC"),
    "optimised-disjunctive-reasoning": ("true",),
    "serialise-assignments": ("false",),
}
"""By capability, the lines that state it."""


def verify(
    query: Path, networks: Mapping[str, Path], flags: Mapping[str, object], timeout: float | None
) -> Iterator[Note | Progress | tuple[Answer, str]]:
    """Decide a query; the last event is the answer, with an assignment if it is sat.

    Raises UsageError (2) for networks that the query does not declare, InputRejected (3) for unreadable files.
    """
    text = load(query)
    question = parse(text.text)
    file = opened(_network(question, networks))
    flags = dict(flags) | ({} if timeout is None else {"time_budget": f"{DECIDING_SHARE * timeout:.3f}"})
    for event in decide_opened(file, query.name, text, flags):
        if isinstance(event, PropertyDone):
            result = event.report.result
            yield ANSWERS[result.verdict], assignment(question, result)
        else:
            yield event


def assignment(question: Property, result: PropertyResult) -> str:
    """A value for every entry of every variable, in the order of declarations; empty without a counterexample.

    The variables of a query in VNN-LIB 1.0 are called ``X`` and ``Y``.
    """
    if result.witness is None:
        return ""
    values = {"X": iter(result.witness.x), "Y": iter(result.witness.y)}
    rows = question.declared or (
        Declared("X", "X", "float32", (question.inputs,)),
        Declared("Y", "Y", "float32", (question.outputs,)),
    )
    lines = []
    for one in rows:
        lines.append(f"{one.name} {one.element_type} [{','.join(map(str, one.shape))}]")
        lines += [_shortest(next(values[one.kind])) for _ in range(one.size)]
    return "".join(f"{line}\n" for line in lines)


def _shortest(number: str) -> str:
    """The shortest decimal of a float32, and the number as it is where it is none."""
    near = np.float32(float(Fraction(number)))
    return str(near) if Fraction(float(near)) == Fraction(number) else number


def _network(question: Property, networks: Mapping[str, Path]) -> Path:
    if len(networks) != 1 or (question.network is not None and question.network not in networks):
        raise UsageError(
            f"--network NAME=FILE maps the network of the query, {question.network or 'of any name'}, to its model; received "
            f"{', '.join(networks) or 'none'}. Name exactly that network."
        )
    return next(iter(networks.values()))
