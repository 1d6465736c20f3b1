"""What ``retrain`` chose by measuring, kept in the folder of the run so that the same command goes on with it."""

from __future__ import annotations

from typing import Any

from pipeline.distributed.group import ProcessGroup
from pipeline.errors import UsageError
from pipeline.system.run_folder import RunFolder


class Choices:
    """Values by the digest of what was asked for. The first process reads and writes them; all have them.

    Raises UsageError (2) where the file to be written, or a checkpoint beside it, is another command's, unless ``force``: before
    anything is measured.
    """

    def __init__(self, run: RunFolder, group: ProcessGroup, force: bool):
        self.run, self.group = run, group
        self.values: dict[str, Any] = group.on_first(lambda: self._read(force))

    def _read(self, force: bool) -> dict[str, Any]:
        if not force:
            self.run.require_own()
        elif self.run.unauthenticated():
            return {}
        values = self.run.load_choices()
        taken = next((path for path in (self.run.out, self.run.checkpoint) if path.exists()), None)
        if taken is not None and not values and not force:
            raise UsageError(f"{taken} is not this command's; name another --out, or overwrite it with --force.")
        return values

    def get(self, asked: str) -> Any | None:
        """What was chosen for it, if anything was."""
        return self.values.get(asked)

    def put(self, asked: str, value: Any) -> None:
        """Keep a choice."""
        self.values[asked] = value
        self.keep()

    def keep(self) -> None:
        """Write all of them down (again)."""
        self.group.on_first(lambda: self.run.save_choices(self.values))
