"""The clock that ends a proof: between units of work, and inside a walk wherever it reaches an input."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from pipeline.arithmetic import Rounding
from pipeline.bounds import Interval, LinearForm
from pipeline.threat import Region


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


@dataclass(eq=False)
class Watched:
    """A region that ends a walk which runs out of time, and remembers the last form it was asked about."""

    region: Region
    clock: Clock
    last: LinearForm | None = None

    @property
    def box(self) -> Interval:
        return self.region.box

    def minimise(self, form: LinearForm, rounding: Rounding) -> Tensor:
        self.clock.check()
        self.last = form
        return self.region.minimise(form, rounding)

    def __getitem__(self, samples: slice | Tensor) -> Watched:
        return Watched(self.region[samples], self.clock)
