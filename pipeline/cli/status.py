"""How a command ended, kept in ``status.json`` of its report folder: torchrun turns every exit code but 0 into 1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import EnvironmentFailure


def is_first_process() -> bool:
    """Whether this is the process of its run that writes and prints: alone, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class Ending:
    """A command line and what is known of its end; ``folder`` is None as long as it has none."""

    argv: Sequence[str] = ()
    command: str = ""
    folder: Path | None = None
    make: bool = False
    reason: str | None = None
    result_sha256: str | None = None

    def will_be_in(self, folder: Path, *, command: str, named: bool) -> None:
        """From here on the end is written down; what an earlier run left is no longer its.

        A folder is made for it where the user named it, or where a launcher started us: elsewhere a mistyped command leaves
        nothing behind.
        """
        if not is_first_process():
            return
        from pipeline.results.status import forget

        self.command, self.folder = command, folder
        self.make = named or "TORCHELASTIC_RUN_ID" in os.environ
        forget(folder)

    def reached(self, done: Any) -> None:
        """The run is over, and this is what it found."""
        from pipeline.results.status import reason

        self.reason, self.result_sha256 = reason(done.report), done.report.result_sha256

    def close(self, code: int, message: str) -> int:
        """Write the status; the exit code, or 74 where all went well until then and the disk refuses."""
        if self.folder is None or not (self.make or self.folder.is_dir()):
            return code
        from pipeline.results.status import Status

        now = datetime.now(UTC).isoformat(timespec="seconds")
        reason = message or self.reason or "done"
        status = Status(
            command=self.command, exit_code=code, reason=reason, result_sha256=self.result_sha256, finished=now
        )
        try:
            status.write(self.folder)
        except EnvironmentFailure:
            return code or EnvironmentFailure.exit_code
        return code
