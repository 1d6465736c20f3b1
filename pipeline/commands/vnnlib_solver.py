"""The command line of VNN-LIB 2.0 (chapter 5 of the standard): a query answered, and what can be answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.commands.events import Decided, Note
from pipeline.commands.properties import decide_read
from pipeline.commands.subject import opened
from pipeline.errors import UsageError
from pipeline.onnx import importer  # noqa: F401  enters the operators into their table
from pipeline.onnx.operators import OPSETS, TABLE
from pipeline.progress import Progress
from pipeline.results.property import PropertyResult
from pipeline.vnnlib import Declared, Property, load, parse

Answer = Literal["sat", "unsat", "unknown", "timed-out"]
ANSWERS: dict[str, Answer] = {"violated": "sat", "holds": "unsat", "unknown": "unknown", "timeout": "timed-out"}
SHARE = 0.9
"""How much of the time given is spent on deciding; the rest is for starting, and for what is under way."""

NOT_BOUNDED = {
    *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Where"),
    *("Cast", "ArgMax"),
}
"""Operators that are imported, and whose queries may be refuted, but that have no bounds where they depend on the input."""

FOLDED = {"Constant", "ConstantOfShape"}
"""Operators of which no node is left behind, as their values are known before."""

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
"""By capability, the lines that it is answered with."""


def verify(
    query: Path, networks: Mapping[str, Path], flags: Mapping[str, object], timeout: float | None
) -> Iterator[Note | Progress | tuple[Answer, str]]:
    """The answer to a query, the last event, with an assignment where it is sat.

    Raises UsageError (2) for networks that the query does not declare, InputRejected (3) for what cannot be read or bounded.
    """
    asked = load(query)
    question = parse(asked.text)
    file = opened(_network(question, networks))
    said = dict(flags) | ({} if timeout is None else {"time_budget": f"{SHARE * timeout:.3f}"})
    for event in decide_read(file, query.name, asked, said):
        if isinstance(event, Decided):
            result = event.report.result
            yield ANSWERS[result.verdict], assignment(question, result)
        else:
            yield event


def assignment(question: Property, result: PropertyResult) -> str:
    """A value for every entry of every variable, in the order of declarations; nothing without a counterexample.

    The values of a query in VNN-LIB 1.0 are ``X`` and ``Y``, a row each.
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
        lines += [_written(next(values[one.kind])) for _ in range(one.size)]
    return "".join(f"{line}\n" for line in lines)


def _written(number: str) -> str:
    """As short as float32 allows, or exact where it is none."""
    near = np.float32(float(Fraction(number)))
    return str(near) if Fraction(float(near)) == Fraction(number) else number


def _network(question: Property, networks: Mapping[str, Path]) -> Path:
    if len(networks) != 1 or (question.network is not None and question.network not in networks):
        said = ", ".join(networks) or "none"
        raise UsageError(
            f"--network NAME=FILE maps the network of the query, {question.network or 'of any name'}, to its model; received "
            f"{said}."
        )
    return next(iter(networks.values()))
