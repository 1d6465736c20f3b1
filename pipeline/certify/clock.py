"""The clock that ends a proof: between units of work, and inside a walk at every node."""

from __future__ import annotations

import time
from dataclasses import dataclass


class OutOfTime(Exception):
    """The budget ran out in the middle of a walk."""


@dataclass(frozen=True)
class Clock:
    """A moment on the monotonic clock after which nothing is begun; None for no budget."""

    deadline: float | None = None

    @staticmethod
    def of(seconds: float | None) -> Clock:
        return Clock(None if seconds is None else time.monotonic() + seconds)

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise OutOfTime after the deadline."""
        if self.over:
            raise OutOfTime
