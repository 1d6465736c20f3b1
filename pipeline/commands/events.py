"""The events that commands yield."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.gates import EXIT_CODES
from pipeline.progress import Progress
from pipeline.results import Report
from pipeline.results.property import PropertyReport, PropertyVerdict


@dataclass(frozen=True)
class Note:
    """A message to the user; ``warning`` where it may change what the user does next."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Done:
    """The last event: the report, its folder, and for ``retrain`` the model file that was written."""

    report: Report
    folder: Path
    written: Path | None = None
    changes: tuple[str, ...] = ()
    is_first: bool = True
    """Whether this process is the one that prints."""

    @property
    def exit_code(self) -> int:
        """0 if every gate passed or there is none, 1 if one failed, 4 if one is undecided or nothing was checked.

        0 for a shard, which decides no gate.
        """
        return 0 if self.report.result.shard is not None else EXIT_CODES[self.report.result.verdict]


Event = Note | Progress | Done

PROPERTY_EXIT_CODES: dict[PropertyVerdict, int] = {"holds": 0, "violated": 1, "unknown": 4, "timeout": 4}


@dataclass(frozen=True)
class PropertyDone:
    """The last event of a run on a property: the report, and its folder if it was written."""

    report: PropertyReport
    folder: Path | None

    @property
    def exit_code(self) -> int:
        """0 holds; 1 violated; 4 unknown, out of time, or an empty unsafe set, for which nothing was checked."""
        result = self.report.result
        return PROPERTY_EXIT_CODES[result.verdict] if result.property.boxes else PROPERTY_EXIT_CODES["unknown"]
