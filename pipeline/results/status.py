"""How a run ended, in a small file beside its report, for jobs whose launcher loses the exit code."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from pipeline.results.facts import Name, Sha256
from pipeline.results.rate import Frozen
from pipeline.results.result import Report
from pipeline.results.write import dump, put

FILE_NAME = "status.json"


class Status(Frozen):
    """The exit code of a run and the reason for it; `result_sha256` is that of the report, None where none was written."""

    schema_version: Literal["1"] = "1"
    command: str
    exit_code: int
    reason: Name
    result_sha256: Sha256 | None = None
    finished: str

    def write(self, folder: Path) -> None:
        """Write it into a folder, atomically. Raises EnvironmentFailure (74)."""
        put(folder, {FILE_NAME: dump(self).encode("utf-8")})


def forget(folder: Path) -> None:
    """Remove the file of an earlier run, so that a run that is killed is not taken for it."""
    with contextlib.suppress(OSError):
        (folder / FILE_NAME).unlink(missing_ok=True)


def reason(report: Report) -> str:
    """Why a finished run passed, failed, or is undecided, as a phrase."""
    gates = report.result.gates
    decisive = [gate for gate in gates if gate.passed is not True]
    failed = [gate for gate in gates if gate.passed is False]
    if decisive:
        return f"{'failed' if failed else 'undecided'}: {'; '.join(gate.summary for gate in failed or decisive)}"
    if report.result.shard is not None:
        return f"shard {report.result.shard} is done; `pipeline merge` decides"
    if report.result.verdict == "incomplete":
        return "nothing was checked"
    if not gates:
        return "done; no gate was asked" + (", and samples are left undecided" if report.result.partial else "")
    return "passed: " + "; ".join(gate.summary for gate in gates)
