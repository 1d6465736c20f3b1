"""The clock of a time budget, looked at inside every long step: between samples, and at every node of a walk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from pipeline.errors import Incomplete

PREPARING = 5.0
"""Seconds that a run may take at least, whatever the budget, until the file is read and its labels are known."""

UNPREPARED = (
    "the time budget was spent before the file was imported and its own labels were known, so nothing was checked; allow "
    "more with --time-budget, or select fewer samples with --max-samples."
)


class OutOfTime(Incomplete):
    """The time budget ran out in the middle of something; where nobody can say what was done, nothing was checked (4)."""

    def __init__(self, message: str = UNPREPARED) -> None:
        super().__init__(message)


@dataclass(frozen=True)
class Clock:
    """A moment on the monotonic clock after which nothing is begun; None for no budget."""

    deadline: float | None = None

    @staticmethod
    def of(seconds: float | None, since: float | None = None) -> Clock:
        """A budget from now on, or from another moment of the monotonic clock."""
        start = time.monotonic() if since is None else since
        return Clock(None if seconds is None else start + seconds)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise OutOfTime after the deadline."""
        if self.over:
            raise OutOfTime


def preparing(budget: float | None, since: float | None = None) -> Clock:
    """The clock of what comes before proofs: a budget below ``PREPARING`` still has a report, in which nothing is proved."""
    return Clock.of(None if budget is None else max(budget, PREPARING), since)


_RUNNING: ContextVar[Clock] = ContextVar("the clock of what is being prepared", default=Clock())  # noqa: B039


@contextmanager
def limited(clock: Clock) -> Iterator[None]:
    """Let ``look`` end what is done inside, once the clock has run out."""
    token = _RUNNING.set(clock)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def look() -> None:
    """Raise OutOfTime where whoever called us gave a clock, and it has run out."""
    _RUNNING.get().check()
