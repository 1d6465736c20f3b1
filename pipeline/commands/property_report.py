"""The result of a property: what is known of it, and how it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.results.facts import Name, RuntimeExecution, Sha256, Tool
from pipeline.results.rate import Frozen
from pipeline.results.result import Run
from pipeline.results.write import dump, put

Verdict = Literal["holds", "violated", "unknown", "timeout"]
EXIT_CODES: dict[Verdict, int] = {"holds": 0, "violated": 1, "unknown": 4, "timeout": 4}


class Found(Frozen):
    """A counterexample in the model's input space, every number an exact decimal.

    ``rounded`` counts the inputs that are no float32: their bounds hold none, and the file was given the nearest.
    """

    x: tuple[str, ...]
    y: tuple[str, ...]
    rounded: int


class Delivered(Frozen):
    """The model file, by its name without folders."""

    file: Name
    sha256: Sha256
    bytes: int


class Asked(Frozen):
    """The property file, and what it holds once its connectives are expanded."""

    file: Name
    sha256: Sha256
    inputs: int
    outputs: int
    boxes: int
    conjunctions: int
    vacuous: int


class Answer(Frozen):
    """What is known of a property: the verdict, what it means, and how it was reached."""

    tool: Tool
    model: Delivered
    property: Asked
    output: Name | None = None
    """The one that was chosen, of several."""
    arithmetic: str
    provider: str
    execution: RuntimeExecution | None = None
    statement: str
    assumptions: tuple[str, ...] = ()
    verdict: Verdict
    methods: tuple[str, ...] = Field(min_length=1)
    decided_by: str | None
    boxes_bounded: int
    boxes_open: int
    attack: dict[str, int | float] | None
    witness: Found | None = None
    notes: tuple[str, ...] = ()


class PropertyReport(Frozen):
    """An answer, its digest, and the run that it came from."""

    schema_version: Literal["1"] = "1"
    kind: Literal["property"] = "property"
    result: Answer
    result_sha256: Sha256
    run: Run


@dataclass(frozen=True)
class Decided:
    """The last event: the report, and where it lies."""

    report: PropertyReport
    folder: Path | None

    @property
    def exit_code(self) -> int:
        """0 holds, 1 violated, 4 unknown or out of time, or an unsafe set so empty that nothing was checked."""
        result = self.report.result
        return EXIT_CODES[result.verdict] if result.property.boxes else EXIT_CODES["unknown"]


def write(report: PropertyReport, witness: str | None, folder: Path) -> None:
    """Write report.json, and counterexample.txt where there is one, into a folder. Raises EnvironmentFailure (74)."""
    put(
        folder,
        {"counterexample.txt": None if witness is None else witness.encode(), "report.json": dump(report).encode()},
    )
