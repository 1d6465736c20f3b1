"""The result of a property: what is known of it, what that means, and how it is kept and dumped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.errors import EnvironmentFailure
from pipeline.report.facts import Name, Sha256, Tool
from pipeline.report.result import Run
from pipeline.report.write import replace_atomically

Verdict = Literal["holds", "violated", "unknown", "timeout"]
EXIT_CODES: dict[Verdict, int] = {"holds": 0, "violated": 1, "unknown": 4, "timeout": 4}
STATEMENT = {
    "float32-any-order": (
        "For every real input of every box, and for the float32 nearest to it, the network of this ONNX file, and every float32 "
        "evaluation of it in any order of IEEE operations, gives outputs outside the unsafe set."
    ),
    "real": (
        "For every real input of every box, the network of this ONNX file in exact real arithmetic stays outside the unsafe set."
    ),
    "none": "Bounds without any account of rounding: nothing is proved.",
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Found(_Frozen):
    """A counterexample in the model's input space, every number an exact decimal.

    ``rounded`` counts the inputs that are no float32: their bounds hold none, and the file was given the nearest.
    """

    x: tuple[str, ...]
    y: tuple[str, ...]
    rounded: int


class Asked(_Frozen):
    """The property file, and what it holds once its connectives are expanded."""

    file: Name
    sha256: Sha256
    inputs: int
    outputs: int
    boxes: int
    conjunctions: int
    vacuous: int


class Answer(_Frozen):
    """What is known of a property: the verdict, what it means, and how it was reached."""

    tool: Tool
    model: dict[str, str | int]
    property: Asked
    arithmetic: str
    provider: str
    statement: str
    assumptions: tuple[str, ...] = ()
    verdict: Verdict
    methods: tuple[str, ...]
    decided_by: str | None
    boxes_bounded: int
    boxes_open: int
    attack: dict[str, int | float] | None
    witness: Found | None = None
    notes: tuple[str, ...] = ()


class PropertyReport(_Frozen):
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
        """0 holds, 1 violated, 4 unknown or out of time."""
        return EXIT_CODES[self.report.result.verdict]


def dump(report: PropertyReport) -> str:
    """The report as JSON, indented."""
    return json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: PropertyReport, witness: str | None, folder: Path) -> None:
    """Write report.json, and counterexample.txt where there is one, into a folder. Raises EnvironmentFailure (74)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if witness is not None:
            replace_atomically(folder / "counterexample.txt", witness.encode())
        else:
            (folder / "counterexample.txt").unlink(missing_ok=True)
        replace_atomically(folder / "report.json", dump(report).encode())
    except OSError as error:
        raise EnvironmentFailure(
            f"The report could not be written to {str(folder)!r}: {error.strerror or error}. "
            "Free the disk or name another folder with --report."
        ) from error
