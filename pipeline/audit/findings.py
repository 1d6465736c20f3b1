"""What a verification looked at: what holds, what was not looked at, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Findings:
    """Sentences; anything in ``faults`` is a contradiction (exit code 5)."""

    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def check(self, what: str, faults: Iterable[str]) -> bool:
        """Enter a check with the faults that it found, or as passed where it found none; whether it passed."""
        new = list(faults)
        self.faults += new
        if not new:
            self.checked.append(what)
        return not new

    def skip(self, what: str) -> None:
        """Enter something that was not checked, with the reason."""
        self.unchecked.append(what)

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong, 5 else."""
        return 5 if self.faults else 0
