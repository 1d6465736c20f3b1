"""Boxes of inputs under proof, and the clock that ends it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.arithmetic import Rounding
from pipeline.bounds import Interval, LinearForm
from pipeline.network import Network
from pipeline.vnnlib import Case, above64, below64, nearest32


class OutOfTime(Exception):
    """The budget ran out in the middle of a walk."""


@dataclass(frozen=True)
class Clock:
    """A moment on the monotonic clock after which nothing is begun; None for no budget."""

    deadline: float | None = None

    @staticmethod
    def of(seconds: float | None) -> Clock:
        return Clock(None if seconds is None else time.monotonic() + seconds)

    def check(self) -> None:
        """Raise OutOfTime after the deadline."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime


@dataclass(eq=False)
class Watched:
    """A box that remembers the last form it was asked about, and ends a walk that runs out of time."""

    box: Interval
    clock: Clock
    last: LinearForm | None = None

    def minimise(self, form: LinearForm, rounding: Rounding) -> Tensor:
        self.clock.check()
        self.last = form
        return rounding.minimum(form, self.box)

    def __getitem__(self, samples: slice | Tensor) -> Watched:
        return Watched(self.box[samples], self.clock)


@dataclass(frozen=True, eq=False)
class Patch:
    """A part of a case's box, ends rounded outward, and the conjunctions that are not refuted over it."""

    case: int
    lower: np.ndarray
    upper: np.ndarray
    open: tuple[int, ...]


def whole(index: int, case: Case) -> Patch:
    """The box of a case around every real point of it and around the float32 that a deployment makes of that point.

    Rounding to nearest is monotone, so ``[min(l, fl(l)), max(u, fl(u))]`` holds both.
    """
    lower = np.array([min(below64(v), nearest32(v)) for v in case.lower])
    upper = np.array([max(above64(v), nearest32(v)) for v in case.upper])
    return Patch(index, lower, upper, tuple(range(len(case.unsafe))))


def inputs_of(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """A batch of flat vectors, cut and shaped into the inputs of a network in the file's order."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    return [part.reshape(len(flat), *shape) for part, shape in zip(flat.split(sizes, 1), shapes, strict=True)]


def outputs_of(network: Network, xs: Sequence[Tensor]) -> list[Tensor]:
    """All outputs of a network, as a list."""
    y = network(*xs)
    return list(y) if isinstance(y, tuple) else [y]
