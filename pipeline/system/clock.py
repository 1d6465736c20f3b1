"""The clock of a time budget, checked inside every long step: between samples, and at every node of a walk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from pipeline.errors import Incomplete

PREPARING = 5.0
"""The least number of seconds that a run may take to read the file and compute its labels, whatever the budget."""

UNPREPARED = (
    "the time budget was spent before the file was imported and its own labels were known, so nothing was checked; allow "
    "more with --time-budget, or select fewer samples with --max-samples."
)


class OutOfTime(Incomplete):
    """The time budget ran out inside a step (4). Unless the message says more, nothing was checked."""

    def __init__(self, message: str = UNPREPARED) -> None:
        super().__init__(message)


@dataclass(frozen=True)
class Clock:
    """A deadline on the monotonic clock, in seconds, after which nothing is begun; None for no budget."""

    deadline: float | None = None

    @staticmethod
    def of(seconds: float | None, since: float | None = None) -> Clock:
        """A budget from now on, or from the moment ``since`` of the monotonic clock."""
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
    """The clock of the work before proofs, at least ``PREPARING``: any budget yields a report, at least one without proofs."""
    return Clock.of(None if budget is None else max(budget, PREPARING), since)


_RUNNING: ContextVar[Clock] = ContextVar("the clock of the work before proofs", default=Clock())  # noqa: B039


@contextmanager
def time_limit(clock: Clock) -> Iterator[None]:
    """Let ``check_time`` raise OutOfTime in the calls inside, once the clock has run out."""
    token = _RUNNING.set(clock)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def check_time() -> None:
    """Raise OutOfTime where the clock of the enclosing ``time_limit`` has run out."""
    _RUNNING.get().check()
