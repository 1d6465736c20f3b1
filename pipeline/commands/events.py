"""What a run tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.gates import EXIT_CODES
from pipeline.progress import Progress
from pipeline.results import Report
from pipeline.results.property import PropertyReport, PropertyVerdict


@dataclass(frozen=True)
class Note:
    """Something that a reader should know before going on; ``warning`` where it may change what is done next."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Done:
    """The report, where it lies, and for ``retrain`` the file that was written."""

    report: Report
    folder: Path
    written: Path | None = None
    changes: tuple[str, ...] = ()
    leads: bool = True
    """Whether this process is the one of its run that prints."""

    @property
    def exit_code(self) -> int:
        """0 where every gate passed or none was asked, 1 where one failed, 4 where one is undecided or nothing was checked.

        A shard decides nothing, and is done.
        """
        return 0 if self.report.result.shard is not None else EXIT_CODES[self.report.result.verdict]


Event = Note | Progress | Done

PROPERTY_EXIT_CODES: dict[PropertyVerdict, int] = {"holds": 0, "violated": 1, "unknown": 4, "timeout": 4}


@dataclass(frozen=True)
class Decided:
    """The last event of a property: the report, and where it lies."""

    report: PropertyReport
    folder: Path | None

    @property
    def exit_code(self) -> int:
        """0 holds, 1 violated, 4 unknown or out of time, or an unsafe set so empty that nothing was checked."""
        result = self.report.result
        return PROPERTY_EXIT_CODES[result.verdict] if result.property.boxes else PROPERTY_EXIT_CODES["unknown"]
