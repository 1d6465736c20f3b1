"""How far a run has come, as whoever watches it is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a phase has come; ``seconds`` estimates the whole phase, where that could be measured beforehand."""

    phase: str
    done: int
    total: int
    seconds: float | None = None
