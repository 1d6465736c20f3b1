"""What an operator is between linear functions, over the boxes of its inputs: the steps of a backward walk.

A relaxation is made once for given boxes and pulled through as often as there are rows. Whatever evaluating it may err by
is charged to the constant, through one nonnegative vector ``slack`` over the operator's outputs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.interval import Interval
from pipeline.core.linear_form import LinearForm
from pipeline.core.rounding import Rounding, dot

Origin = tuple[int, ...]
Window = Callable[[Tensor, Origin], Sequence[tuple[Tensor | None, Origin]]]
"""``A W`` of coefficients on a window: the window of each input that it reaches."""


class Relaxation(ABC):
    """A lower form over an operator's output as lower forms over its inputs."""

    start: Tensor | None = None
    """Where a search for better slopes begins, each entry in [0, 1]: (choices, batch, *features); None without a choice."""
    windowed: bool = False
    """Whether forms on a window are taken; any other relaxation wants them dense."""

    @abstractmethod
    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        """One form for each input, None for a constant; ``alpha``: (choices, rows, batch, *features) chooses slopes."""


@dataclass(frozen=True, eq=False)
class AffineMap(Relaxation):
    """``y = W x + b``: ``<A, y> + d = <A W, x> + d + <A, b>``, exact but for rounding."""

    transpose: Callable[[Tensor], tuple[Tensor | None, ...]]
    constant: Tensor | None
    slack: Tensor | None
    rounding: Rounding
    window: Window | None = None

    @property
    def windowed(self) -> bool:  # type: ignore[override]
        return self.window is not None

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        added = None if self.constant is None else dot(form.coeff, form.within(self.constant))
        slack = None if self.slack is None else form.within(self.slack)
        const = self.rounding.descend(form.const, added, form.coeff, slack)
        pulled: list[LinearForm | None] = []
        for coeff, origin in self._transposed(form):
            pulled.append(None if coeff is None else LinearForm(coeff, const, origin))
            const = const if coeff is None else torch.zeros_like(const)
        return tuple(pulled)

    def _transposed(self, form: LinearForm) -> Sequence[tuple[Tensor | None, Origin]]:
        if form.origin:
            assert self.window is not None
            return self.window(form.coeff, form.origin)
        return [(coeff, ()) for coeff in self.transpose(form.coeff)]


@dataclass(frozen=True, eq=False)
class Chain(Relaxation):
    """One operator made of two: forms go through ``after`` first."""

    before: Relaxation
    after: Relaxation

    @property
    def windowed(self) -> bool:  # type: ignore[override]
        return self.before.windowed and self.after.windowed

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        (inner,) = self.after.pull_back(form)
        assert inner is not None
        return self.before.pull_back(inner)


@dataclass(frozen=True, eq=False)
class Line:
    """``slope x + offset`` in each entry; an offset of None is zero."""

    slope: Tensor
    offset: Tensor | None = None


class Lines(Relaxation):
    """An elementwise function between two lines: ``below(x) <= f(x) <= above(x)`` on the box, in exact arithmetic.

    ``<A, f(x)> >= <A+, below(x)> + <A-, above(x)>`` (Zhang et al., CROWN, arXiv 1811.00866, theorem 3.2). The lines must
    already allow for what the deployed ``f`` may err by; ``steepest`` bounds the absolute slope of every line that
    ``steer`` may choose, ``highest`` its absolute offset.
    """

    windowed = True

    def __init__(
        self,
        box: Interval,
        below: Line,
        above: Line,
        *,
        rounding: Rounding,
        steepest: Tensor | float,
        highest: Tensor | float,
        start: Tensor | None = None,
        steer: Callable[[Tensor], tuple[Line, Line]] | None = None,
        pieces: tuple[float, float] | None = None,
    ):
        self.below, self.above, self.rounding = below, above, rounding
        self.start, self.steer, self.pieces = start, steer, pieces
        self.slack = rounding.lines_slack(box, steepest, highest)

    def split(self, sign: Tensor) -> Lines:
        """The same where ``sign x >= 0`` is assumed of each entry: 1, -1, or 0 for no assumption; (rows, batch, *features)."""
        assert self.pieces is not None
        left, right = self.pieces

        def assumed(line: Line) -> Line:
            slope = torch.where(sign > 0, right, torch.where(sign < 0, left, line.slope))
            return Line(slope, None if line.offset is None else torch.where(sign == 0, line.offset, 0.0))

        def steer(alpha: Tensor) -> tuple[Line, Line]:
            below, above = (self.below, self.above) if self.steer is None else self.steer(alpha)
            return assumed(below), assumed(above)

        same = copy.copy(self)
        same.below, same.above, same.steer = assumed(self.below), assumed(self.above), steer
        return same

    def pull_back(self, form: LinearForm, alpha: Tensor | None = None) -> tuple[LinearForm | None, ...]:
        below, above = (self.below, self.above) if alpha is None or self.steer is None else self.steer(alpha)
        positive, negative = form.coeff.clamp_min(0), form.coeff.clamp_max(0)
        added = None
        for line, part in ((below, positive), (above, negative)):
            if line.offset is not None:
                more = _dot(part, form.within(line.offset))
                added = more if added is None else added + more
        slack = None if self.slack is None else form.within(self.slack)
        const = self.rounding.descend(form.const, added, form.coeff, slack)
        # One of the two products is zero: the sum rounds once, as a choice would, and takes a quarter of its time.
        rising, falling = form.within(below.slope), form.within(above.slope)
        if torch.is_grad_enabled():
            coeff = positive * rising + negative * falling
        else:
            coeff = positive.mul_(rising).addcmul_(negative, falling)
        return (LinearForm(coeff, const, form.origin),)


def _dot(coeff: Tensor, value: Tensor) -> Tensor:
    """``<A, y>``, where ``y`` may be another for each row."""
    return (coeff * value).reshape(*coeff.shape[:2], -1).sum(2) if value.dim() == coeff.dim() else dot(coeff, value)
