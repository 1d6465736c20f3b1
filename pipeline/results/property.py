"""The result of a property, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.results.facts import Name, RuntimeExecution, Sha256, Tool, Unfinished
from pipeline.results.rate import Frozen
from pipeline.results.result import SealedReport
from pipeline.results.write import dump, put

PropertyVerdict = Literal["holds", "violated", "unknown", "timeout"]


class WitnessPoint(Frozen):
    """A counterexample in the model's input space, every number an exact decimal.

    ``rounded`` counts the inputs whose bounds contain no float32, for which the file was given the nearest one.
    """

    x: tuple[str, ...]
    y: tuple[str, ...]
    rounded: int


class PropertyModel(Frozen):
    """The model file, by its name without folders."""

    file: Name
    sha256: Sha256
    bytes: int


class PropertyFile(Frozen):
    """The property file, and the sizes of the property in disjunctive normal form."""

    file: Name
    sha256: Sha256
    inputs: int
    outputs: int
    boxes: int
    conjunctions: int
    vacuous: int


class PropertyResult(Frozen):
    """The verdict on a property, its meaning, and how it was reached."""

    tool: Tool
    model: PropertyModel
    property: PropertyFile
    output: Name | None = None
    """The chosen output, of a model that has several."""
    arithmetic: str
    provider: str
    execution: RuntimeExecution | None = None
    statement: str
    assumptions: tuple[str, ...] = ()
    verdict: PropertyVerdict
    methods: tuple[str, ...] = Field(min_length=1)
    decided_by: str | None
    boxes_bounded: int
    boxes_open: int
    unfinished: Unfinished | None = None
    """For `unknown` and `timeout`: why branch and bound left its first open box undecided."""
    attack: dict[str, int | float] | None
    witness: WitnessPoint | None = None
    notes: tuple[str, ...] = ()


class PropertyReport(SealedReport[PropertyResult]):
    """The report of a property."""

    kind: Literal["property"]


def write_property(report: PropertyReport, witness: str | None, folder: Path) -> None:
    """Write report.json, and counterexample.txt where there is one, into a folder. Raises EnvironmentFailure (74)."""
    put(
        folder,
        {"counterexample.txt": None if witness is None else witness.encode(), "report.json": dump(report).encode()},
    )
